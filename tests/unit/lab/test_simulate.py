"""`weighbridge simulate`: equal seeds, equal files; what is simulated is what an emulator does."""

import http.client
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from weighbridge import _core
from weighbridge.cli.main import app
from weighbridge.config.core import settings
from weighbridge.config.file import Config
from weighbridge.errors import ConfigError, RefusedError
from weighbridge.lab.simulate import (
    OURS,
    Fleet,
    Options,
    confidence,
    parse_fleet,
    parse_fleets,
    parse_policies,
    parse_rates,
    parse_settings,
    parse_surge,
    read_events,
    scenario_of,
    shares,
    simulate,
    without_minutes,
)
from weighbridge.lab.simulate_report import runs
from weighbridge.lab.traces import generate, load, requests_of, shipped_trace

ENGINE = "llama-3.1-8b-fp8-h100"
ROW = [
    "policy",
    "replicas",
    "offered_rps",
    "goodput_rps",
    "slo_attainment",
    "ttft_p50_ms",
    "ttft_p99_ms",
    "tpot_p50_ms",
    "tpot_p99_ms",
    "cache_hit_ratio",
    "ideal_hit_ratio",
    "pooled_hit_ratio",
    "mu_max_over_mean",
    "spills",
    "slices_moved",
    "wall_s",
]


def small(**changes: Any) -> Options:
    given: dict[str, Any] = {
        "trace": shipped_trace(),
        "fleets": [Fleet(ENGINE, 3)],
        "policies": ["round_robin", "weighbridge"],
        "duration_s": 60.0,
        "rates": [6.0],
        **changes,
    }
    return Options(**given)


def test_rows_have_the_keys_that_scripts_rely_on() -> None:
    result = simulate(small())
    assert [list(row) for row in result["rows"]] == [ROW, ROW]
    assert [row["policy"] for row in result["rows"]] == ["round_robin", "weighbridge"]
    assert all(row["wall_s"] is None for row in result["rows"])
    assert simulate(small(timing=True, policies=["random"]))["rows"][0]["wall_s"] > 0


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    def run(seed: int, name: str) -> bytes:
        arguments = [
            *("simulate", "--trace", str(shipped_trace()), "--profile", ENGINE),
            *("--replicas", "3", "--rps", "6", "--duration", "60", "--seed", str(seed)),
            *("--event", "at=20 kill=1 for=10", "--json", str(tmp_path / name)),
        ]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return (tmp_path / name).read_bytes()

    first = run(1, "a")
    assert first == run(1, "b")
    assert first != run(2, "c")
    rows = json.loads(first)["rows"]
    assert [row["policy"] for row in rows] == _core.policies()


def test_hits_are_those_of_an_emulated_replica() -> None:
    """One replica, requests one after another: each finds as much cached here as there."""
    trace = load(shipped_trace())
    requests = list(requests_of(trace))[:40]
    config = {"models": ["m"], "profiles": [ENGINE], "speed": 200.0}
    emulator = _core.Emulator(json.dumps(config))
    try:
        host, port = emulator.addresses()[0].split(":")
        connection = http.client.HTTPConnection(host, int(port))
        prompts = cached = 0
        for request in requests:
            headers = {"x-emulate-output-tokens": "1"}
            body = json.loads(request.body("m"))
            body.pop("stream", None)
            body.pop("stream_options", None)
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            usage = json.loads(connection.getresponse().read())["usage"]
            words = request.input_tokens
            # One begins, three are around each message, two before the answer.
            assert usage["prompt_tokens"] == words + 3 * len(body["messages"]) + 3
            prompts += usage["prompt_tokens"]
            cached += usage["prompt_tokens_details"]["cached_tokens"]
        connection.close()
    finally:
        emulator.stop()
    options = small(
        policies=["round_robin"],
        fleets=[Fleet(ENGINE, 1)],
        rates=[trace.rate],
        duration_s=requests[-1].at_seconds + 0.0001,
        warmup_s=0.0,
        time_scale=1.0,
        answers_quoted=False,
    )
    result = simulate(options)
    assert result["details"][0]["requests"] == len(requests)
    # Here some overlap: a prompt may be computed while its beginning still is.
    simulated = result["rows"][0]["cache_hit_ratio"]
    assert simulated == pytest.approx(cached / prompts, rel=0.02)


def test_goodput_has_an_interval_over_seeds() -> None:
    options = small(goodput=True, seeds=2, precision=0.2, policies=["least_request"], rates=[20.0])
    found = simulate(options)["goodput"][0]
    assert found["policy"] == "least_request"
    assert len(found["seeds_rps"]) == 2
    assert found["of_ours"] is None
    assert found["low_rps"] <= found["goodput_rps"] <= found["high_rps"]


@given(st.lists(st.floats(0.1, 1e3), min_size=1, max_size=12))
def test_the_interval_holds_the_mean(rates: list[float]) -> None:
    found = confidence("p", rates)
    assert found["low_rps"] <= found["goodput_rps"] <= found["high_rps"]


def test_policies_are_told_apart_seed_by_seed() -> None:
    # Seeds differ threefold, the policies by a fifth on each of them.
    found = shares([0.8, 1.6, 2.4], [1.0, 2.0, 3.0])
    assert found["mean"] == pytest.approx(0.8)
    assert found["low"] == pytest.approx(found["high"])
    assert shares([1.0], [0.0])["mean"] == 0.0


def test_several_rates_are_rows_of_their_own_in_order() -> None:
    rows = simulate(small(rates=[6.0, 3.0]))["rows"]
    assert [row["policy"] for row in rows] == ["round_robin"] * 2 + ["weighbridge"] * 2
    assert rows[0]["offered_rps"] > rows[1]["offered_rps"]


def test_a_generated_trace_of_tenants_is_simulated() -> None:
    options = small(trace=None, generator={"tenants": 4, "sessions_per_s": 1.0}, rates=[])
    result = simulate(options)
    assert result["trace"]["name"] == "generated-0"
    assert result["rows"][0]["ideal_hit_ratio"] > 0.2


def test_a_wrong_belief_changes_only_what_the_router_does() -> None:
    right = simulate(small(fleets=[Fleet(ENGINE, 3)]))["rows"]
    wrong = simulate(small(fleets=[Fleet(ENGINE, 3, "llama-3.1-8b-fp8-l40s")]))["rows"]
    same = ("ttft_p99_ms", "cache_hit_ratio")
    assert [right[0][key] for key in same] == [wrong[0][key] for key in same]


def test_slower_replicas_of_a_mixed_fleet_get_less() -> None:
    fleets = [Fleet(ENGINE, 2), Fleet("llama-3.1-8b-fp8-l40s", 2)]
    result = simulate(small(fleets=fleets, duration_s=120.0))
    assert [row["replicas"] for row in result["rows"]] == [4, 4]

    def share_of_slow(detail: dict[str, Any]) -> float:
        given = [sum(column) for column in zip(*mu_by_minute(detail, 4), strict=True)]
        return float(sum(given[2:]) / sum(given))

    in_turn, ours = (share_of_slow(detail) for detail in result["details"])
    assert in_turn > 0.4
    assert ours < in_turn - 0.1


def test_a_timeline_of_events_befalls_the_replicas() -> None:
    events = ("at=20 kill=#0", "at=30 add=2", "at=50 restore=#0", "at=70 drain=#1")
    detail = simulate(
        small(events=events, duration_s=240.0, policies=["round_robin"], detect_ms=0.0)
    )["details"][0]
    minutes = mu_by_minute(detail, 5)
    # Those that are added work from then on; the drained one gets nothing new.
    assert minutes[2][3] > 0
    assert minutes[2][4] > 0
    assert minutes[2][1] == 0
    assert minutes[2][0] > 0


def mu_by_minute(detail: dict[str, Any], replicas: int) -> list[list[float]]:
    """MU of each replica, minute by minute."""
    rows = (list(minute["mu"]) for minute in detail["minutes"])
    return [row + [0.0] * (replicas - len(row)) for row in rows]


def test_plots_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from weighbridge.lab import simulate_plots

    result = simulate(small(rates=[3.0, 6.0], duration_s=130.0))
    files = simulate_plots.write(result, tmp_path)
    assert {file.name for file in files} == {"ttft.png", "mu.png", "hits.png", "goodput.png"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    grid = simulate_plots.mu_grid(result["details"][0]["minutes"])
    assert len(grid) == 3
    assert sum(row[0] for row in grid) == pytest.approx(3.0)


def test_the_json_leaves_out_what_only_plots_need() -> None:
    result = simulate(small(policies=["random"]))
    assert "minutes" in result["details"][0]
    assert "minutes" not in without_minutes(result)["details"][0]


@pytest.mark.parametrize("width", [80, 130])
def test_the_table_fits(width: int) -> None:
    result = simulate(small())
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(runs(result, width))
    text = console.export_text()
    assert "…" not in text
    assert "weighbridge" in text


def test_fleets_are_named_with_counts_or_share() -> None:
    assert parse_fleets(["a", "b"], 5, None) == [Fleet("a", 3), Fleet("b", 2)]
    assert parse_fleets(["a:1", "b:7"], 5, "p") == [Fleet("a", 1, "p"), Fleet("b", 7, "p")]
    with pytest.raises(ConfigError, match="with each of them"):
        parse_fleets(["a:1", "b"], 5, None)
    with pytest.raises(ConfigError, match="'x' is no number"):
        parse_fleets(["a:x"], 5, None)


def test_settings_are_json_or_text() -> None:
    given_settings = ["a.b=1", "a.c=x", "d=[1]"]
    assert parse_settings(given_settings) == {"a": {"b": 1, "c": "x"}, "d": [1]}
    with pytest.raises(ConfigError, match="no KEY=VALUE"):
        parse_settings(["a"])
    with pytest.raises(ConfigError, match="'a' has a value already"):
        parse_settings(["a=1", "a.b=2"])


def test_names_rates_and_events_are_read(tmp_path: Path) -> None:
    assert parse_policies(["maglev,random", "maglev"]) == ["maglev", "random"]
    assert parse_policies([]) == _core.policies()
    assert parse_rates("1,2.5") == [1.0, 2.5]
    for bad in ("x", "0", "1,-2", "inf"):
        with pytest.raises(ConfigError, match="numbers above 0"):
            parse_rates(bad)
    file = tmp_path / "events"
    file.write_text("# a comment\nat=1 kill=1\n\nat=2 add=1\n")
    assert read_events(file) == ["at=1 kill=1", "at=2 add=1"]
    with pytest.raises(RefusedError, match="none"):
        read_events(tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": ["magic"]}, "no policy 'magic'"),
        ({"fleets": [Fleet("abacus", 1)]}, "no engine is called 'abacus'"),
        ({"events": ["at=1 explode=1"]}, "'explode' is none of"),
        ({"core": {"placing": {"samplez": 1}}}, "samplez"),
        ({"fleets": [Fleet(ENGINE, 1, "nothing")]}, "no shipped profile is called 'nothing'"),
        ({"trace": None}, "no trace"),
        ({"slo_share": 2.0}, "slo.share"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        simulate(small(**changes))


def test_beyond_capacity_the_sheddable_are_refused_and_promises_are_kept() -> None:
    terms = {"t1": {"priority": "sheddable"}, "t3": {"guaranteed_mu_per_min": 120_000}}
    queue = {"window_ms": 3000, "queue_window_ms": 1000, "max_wait_ms": 5000}
    core = {"admission": {"queue": queue, "tenants": terms}}
    overload = small(policies=["weighbridge"], rates=[], loads=(4.0,), tenants=4, core=core)
    detail = simulate(overload)["details"][0]
    assert detail["unfinished"] == 0
    tenants = detail["tenants"]
    refused = {name: one["refused"] / one["requests"] for name, one in tenants.items()}
    assert refused["t3"] == 0
    assert refused["t1"] > refused["t2"]
    assert sum(one["refused"] for one in tenants.values()) == detail["refused"] > 0
    assert tenants["t3"]["ttft_p99_ms"] < tenants["t2"]["ttft_p99_ms"]
    # Equal seeds, equal waits.
    assert simulate(overload)["details"][0] == detail


@pytest.mark.parametrize("workload", _core.workloads())
def test_each_workload_runs_before_a_mixed_fleet(workload: str) -> None:
    fleets = parse_fleet("llama-3.1-8b-fp8-h100=2, llama-3.1-8b-fp8-l40s=1", None)
    result = simulate(
        small(generator={"workload": workload}, fleets=fleets, rates=[0.5], policies=[OURS])
    )
    (detail,) = result["details"]
    assert result["trace"]["name"] == f"{workload}-0"
    assert detail["requests"] > 0
    assert detail["finished"] == detail["requests"], detail


def test_mixed_has_every_workload_as_a_tenant() -> None:
    result = simulate(small(generator={"workload": "mixed"}, rates=[8.0], policies=["random"]))
    assert set(result["details"][0]["tenants"]) == set(_core.workloads()) - {"mixed"}


def test_reasoning_answers_are_long_and_prompts_of_short_ones_have_nothing_in_common() -> None:
    answers = [one.output_tokens for one in requests_of(generate(workload="reasoning"))]
    assert min(answers) >= 2000
    assert max(answers) <= 20_000
    bodies = [one.body("m") for one in requests_of(generate(workload="short", duration_s=5))]
    openings = {body[:90] for body in bodies}
    assert len(openings) == len(bodies)


def test_embeddings_ask_for_no_answer_and_pictures_are_seen() -> None:
    (first, *_) = requests_of(generate(workload="embeddings", duration_s=5))
    body = json.loads(first.body("m"))
    assert set(body) == {"model", "input"}
    assert not first.stream
    asked = [json.loads(one.body("m")) for one in requests_of(generate(workload="images"))]
    parts = [
        part
        for body in asked
        for message in body["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
    ]
    urls = {part["image_url"]["url"] for part in parts if part["type"] == "image_url"}
    assert len(urls) > 20
    assert all(url.startswith("data:image/gif;base64,R0lGODlh") for url in urls)


@pytest.mark.parametrize("command", ["simulate", "load"])
def test_a_wrong_workload_is_refused_by_name(command: str) -> None:
    url = ["http://127.0.0.1:9", "--model", "m"] if command == "load" else []
    with pytest.raises(RefusedError, match=r"no workload 'chats'.*reasoning.*mixed"):
        CliRunner().invoke(app, [command, *url, "--workload", "chats"], catch_exceptions=False)


def test_help_names_all_workloads() -> None:
    for command in ("simulate", "load"):
        text = CliRunner().invoke(app, [command, "--help"], terminal_width=400).output
        assert all(name in text for name in _core.workloads()), command


def test_settings_go_with_one_workload() -> None:
    with pytest.raises(RefusedError, match="turns is a setting of one workload"):
        generate(workload="mixed", turns=3)
    longer = generate(workload="short", duration_s=20, output_tokens={"median": 90.0})
    usual = generate(workload="short", duration_s=20)
    mean = {
        trace: sum(one.output_tokens for one in requests_of(trace)) / trace.requests
        for trace in (longer, usual)
    }
    assert mean[longer] > 1.5 * mean[usual]


@pytest.mark.parametrize("text", ["x", "a=", "=3", "a=0", "a=1,", "a=1;b=2"])
def test_a_wrong_fleet_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no PROFILE=COUNT"):
        parse_fleet(text, None)


@pytest.mark.parametrize("text", ["", "at=1", "at=1 for=2 factor=x", "at=1 for=2 factor=2 to=3"])
def test_a_wrong_surge_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="at=240 for=120 factor=2"):
        parse_surge(text)


def test_a_surge_adds_requests_and_leaves_the_others() -> None:
    trace = load(shipped_trace())
    plain = list(requests_of(trace, rate=4.0, duration_s=60))
    more = list(
        requests_of(trace, rate=4.0, duration_s=60, surge={"at_s": 20, "for_s": 10, "factor": 3})
    )
    bodies = {one.replay.body(one.number, "m") for one in more}
    assert all(one.replay.body(one.number, "m") in bodies for one in plain)
    added = len(more) - len(plain)
    assert added > 20
    within = [one for one in more if 20 <= one.at_seconds < 30]
    assert len(within) - sum(20 <= one.at_seconds < 30 for one in plain) == added


def test_what_is_simulated_is_what_ships() -> None:
    """The core's settings are those that the sidecar hands over by default."""
    scenario = scenario_of(small(core={"placing": {"samples": 3}}), load(shipped_trace()))
    shipped = settings(Config(profiles=[ENGINE]), Path("x.yaml"))
    assert scenario["core"]["admission"] == shipped["admission"]
    assert scenario["core"]["health"] == shipped["health"]
    assert scenario["core"]["placing"] == {**shipped["placing"], "samples": 3}
    assert scenario["round_s"] == Config(profiles=[ENGINE]).placing.round_seconds


def test_a_search_tells_every_rate_it_tried_and_counts_no_refusals_as_goodput() -> None:
    queue = {"admission": {"queue": {"max_wait_ms": 1}}}
    result = simulate(
        small(goodput=True, seeds=1, rates=[], load=0.5, policies=[OURS, "oracle"], core=queue)
    )
    ours, oracle = result["goodput"]
    (search,) = ours["searches"]
    assert search["seed"] == 0
    assert [rate for rate, served in search["tried"] if served]
    assert oracle["goodput_rps"] >= ours["goodput_rps"]
    assert all(one["refused"] == 0 for one in result["details"])
