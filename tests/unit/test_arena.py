"""The arena without its processes: who is chosen, what is counted, what agreeing means."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.arena.agree import Pair, Side, order_of, page, write_trace
from tests.arena.dynamo import BLOCK_TOKENS, TOKEN_BYTES, Prompt, prompt_of
from tests.arena.measure import Run, Tokens, figures
from tests.arena.report import markdown
from tests.arena.run import contestants, selected
from tests.arena.setting import Objective, Setting, requests_in, setting_of
from weighbridge.errors import RefusedError
from weighbridge.traces import load, requests_of, shipped_trace
from weighbridge.traffic import Outcome

SETTING = Setting(
    trace=str(shipped_trace()),
    seconds=60.0,
    time_scale=2.0,
    profile="llama-3.1-8b-fp8-h100",
    replicas=2,
    speed=4.0,
    rounds=1,
    seed=1,
    objective=Objective(1000.0, 100.0, 50.0),
)
OUTCOME = Outcome(
    number=0,
    session="s",
    turn=0,
    status=200,
    error=None,
    replica="r",
    request_id="",
    ttft_ms=250.0,
    total_ms=350.0,
    prompt_tokens=1000,
    cached_tokens=0,
    output_tokens=11,
)


def test_contestants_are_chosen_by_parts_of_their_names() -> None:
    everyone = contestants(Path("/nowhere"))
    assert len({one.name for one in everyone}) == len(everyone)
    names = [one.name for one in selected(everyone, "maglev, smg")]
    assert names == ["envoy maglev", "smg cache_aware", "smg prefix_hash", "smg least_load"]
    assert selected(everyone, "") == everyone
    with pytest.raises(RefusedError, match="no contestant is called 'dynamite'"):
        selected(everyone, "dynamite")


def test_a_setting_survives_its_results() -> None:
    content = json.loads(json.dumps(SETTING.json()))
    assert setting_of(content, Path(SETTING.trace)) == SETTING


def test_times_count_in_the_replicas_time() -> None:
    run = Run(
        contestant="c",
        round=1,
        span_seconds=10.0,
        speed=4.0,
        objective=SETTING.objective,
        cpu_seconds=0.5,
        added_ms=1.0,
        machine_busy=0.5,
        tokens=[Tokens(900, 300), Tokens(100, 0)],
    )
    # 1,000 ms to the first token of 1,100 allowed; 40 ms a token of 50.
    late = replace(OUTCOME, ttft_ms=300.0)
    slow = replace(OUTCOME, total_ms=400.0)
    lost = replace(OUTCOME, error="500: no", ttft_ms=None)
    found = figures(run, [OUTCOME, late, slow, lost])
    assert (found.requests, found.failed) == (4, 1)
    assert found.slo_attainment == pytest.approx(0.25)
    assert found.goodput_rps == pytest.approx(0.1)
    assert found.tpot_p50_ms == pytest.approx(40.0)
    assert found.cache_hit_ratio == pytest.approx(0.3)
    assert found.work_max_over_mean == pytest.approx(600 * 2 / 700)
    assert found.router_cpu_s_per_1000 == pytest.approx(125.0)
    assert "| c | 25.0%" in markdown({"rows": [found.row()]})


@given(st.text(max_size=2000), st.text(max_size=600), st.text(max_size=600))
def test_prompts_share_blocks_as_far_as_they_are_alike(same: str, one: str, other: str) -> None:
    def blocks(text: str) -> Prompt:
        return prompt_of(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())

    first, second = blocks(same + one).sequences, blocks(same + other).sequences
    whole = len(f"user {same}".encode()) // (BLOCK_TOKENS * TOKEN_BYTES)
    assert first[:whole] == second[:whole]
    assert len(set(first)) == len(first)


def test_the_simulator_gets_the_arena_s_requests_and_answers(tmp_path: Path) -> None:
    requests = requests_in(SETTING)
    answers = [[one.session, one.at_seconds, 7 + one.number % 5] for one in requests]
    write_trace(SETTING, answers, tmp_path / "t.jsonl")
    written = list(
        requests_of(
            load(tmp_path / "t.jsonl"),
            time_scale=SETTING.time_scale,
            duration_s=SETTING.seconds,
        )
    )
    assert [one.at_seconds for one in written] == [one.at_seconds for one in requests]
    assert [one.input_tokens for one in written] == [one.input_tokens for one in requests]
    assert [one.output_tokens for one in written] == [tokens for *_, tokens in answers]


def pair(name: str, live: tuple[float, ...], simulated: tuple[float, ...]) -> Pair:
    return Pair(name, "p", Side(live), Side(simulated), Side((0.2,)), Side((0.25,)))


def test_an_order_is_against_only_where_both_sides_are_sure() -> None:
    a = pair("a", (0.9, 0.95), (0.8, 0.85))
    b = pair("b", (0.5, 0.6), (0.86, 0.9))
    c = pair("c", (0.5, 0.92), (0.1, 0.95))
    order = order_of([a, b, c])
    assert (order.same, order.all) == (1, 3)
    assert order.against == ("a before b",)
    text = page([a, b, c], 5)
    assert "opposite orders for: a before b" in text
    assert "further off than 15% for: a, b, c" in text
