"""Options to a plan, and an outcome to files."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from tests.unit.calibrate.bench import Trial
from tests.unit.calibrate.virtual import Hidden
from weighbridge.calibrate import profile as profiles
from weighbridge.calibrate import report
from weighbridge.calibrate.command import Options, plan, show
from weighbridge.calibrate.engine.target import Facts
from weighbridge.calibrate.outcome import Outcome
from weighbridge.calibrate.state import Header, State
from weighbridge.errors import ConfigError, RefusedError
from weighbridge.process.output import write_json

OPTIONS = Options(
    url="http://r:8000",
    model=None,
    out=Path("p.yaml"),
    report=None,
    json_file=None,
    name=None,
    reference=None,
    seconds=60,
    tokens=1_000_000,
    max_prompt=None,
    max_batch=None,
    max_num_tokens=None,
    max_seq_len=None,
    kv_tokens=None,
    gpu="",
    gpus=1,
    images=True,
    time_scale=1,
    seed=None,
    state=None,
    fresh=False,
)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """A short calibration of an odd engine."""
    stepped = Hidden(extra=lambda context, _now: 12.0 if context > 2000 else 0.0)
    return Trial(stepped, tokens=1_500_000).outcome()


def test_a_plan_stays_within_what_the_replica_can_do() -> None:
    facts = Facts("m", kv_tokens=20_000, block_tokens=64, max_batch_size=8, max_model_len=4096)
    engine, domain = plan(facts, OPTIONS)
    assert domain.max_prompt == 4096 - 512
    assert domain.max_batch == 8
    assert (engine.kv_tokens, engine.block_tokens, engine.max_seq_len) == (20_000, 64, 4096)
    told, _ = plan(Facts("m", kv_tokens=20_000), replace(OPTIONS, max_seq_len=8192))
    assert told.max_seq_len == 8192
    _, smaller = plan(facts, replace(OPTIONS, max_prompt=1000, max_batch=4))
    assert (smaller.max_prompt, smaller.max_batch) == (1000, 4)


def test_a_replica_that_does_not_tell_its_cache_needs_an_option() -> None:
    with pytest.raises(RefusedError, match="--kv-tokens"):
        plan(Facts("m"), OPTIONS)
    engine, domain = plan(Facts("m"), replace(OPTIONS, kv_tokens=100_000))
    assert (engine.kv_tokens, domain.max_batch) == (100_000, 256)
    with pytest.raises(RefusedError, match="too short"):
        plan(Facts("m", kv_tokens=500), OPTIONS)


def test_the_report_is_one_file_that_fetches_nothing(outcome: Outcome, tmp_path: Path) -> None:
    named = replace(outcome, profile=outcome.profile | {"name": "<b>odd & new</b>"})
    report.write(tmp_path, named, "text of <profile>")
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;odd &amp; new&lt;/b&gt;" in page
    assert "text of &lt;profile&gt;" in page
    assert "a step of +1" in page
    assert page.count("<svg") == page.count("</svg>") == 4
    assert not re.search(r"(src|href)=[\"']?https?:", page)
    assert "<script" not in page
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["verdict"] == outcome.judgement.verdict
    assert {one["name"] for one in facts["coefficients"]} >= {"prefill_per_tok", "decode_base"}
    assert len(facts["measurements"]) > 20


def test_a_profile_is_written_whole_and_only_if_the_core_takes_it(
    outcome: Outcome, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "p.yaml"
    profiles.write(path, outcome.profile, "first\nsecond")
    assert path.read_text().startswith("# first\n# second\nname: hidden\n")
    assert yaml.safe_load(path.read_text()) == outcome.profile
    broken = outcome.profile | {"kv_tokens": -1}
    with pytest.raises(ConfigError, match=r"p\.yaml"):
        profiles.write(path, broken, "")
    assert yaml.safe_load(path.read_text()) == outcome.profile
    assert [one.name for one in path.parent.iterdir()] == ["p.yaml"]


def test_people_see_the_verdict_and_every_warning(outcome: Outcome) -> None:
    console = Console(record=True, width=120)
    show(outcome, OPTIONS, console)
    text = " ".join(console.export_text().split())
    assert outcome.judgement.verdict in text
    for warning in outcome.judgement.warnings[1:]:
        assert warning in text


def test_json_goes_to_standard_output(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(outcome.json(), Path("-"))
    assert json.loads(capsys.readouterr().out)["profile"] == outcome.profile


def test_a_state_of_another_replica_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    header = Header(url="http://a", model="m", time_scale=1, max_prompt=1, max_batch=1)
    State.open(header, path)
    assert not State.open(header, path).resumed
    with pytest.raises(RefusedError, match="url 'http://a' is now 'http://b'"):
        State.open(header.model_copy(update={"url": "http://b"}), path)
    path.write_text("no state\n")
    with pytest.raises(RefusedError, match="is no state file"):
        State.open(header, path)
