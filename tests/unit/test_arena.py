"""The arena without its processes: who is chosen, what is counted, what agreeing means."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.arena.agree import Pair, Side, order_of, page, write_trace
from tests.arena.dynamo import BLOCK_TOKENS, TOKEN_BYTES, Prompt, prompt_of
from tests.arena.dynamo_agree import POLICY, Choice, Selector, diary, summary
from tests.arena.measure import Run, Tokens, figures
from tests.arena.report import markdown
from tests.arena.run import contestants, selected
from tests.arena.setting import Objective, Setting, requests_in, setting_of
from weighbridge.errors import RefusedError
from weighbridge.simulate import Fleet, Options
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


class Published(Selector):
    """Dynamo's cost as its documents give it, in the place of its service."""

    def __init__(self) -> None:
        super().__init__("http://nowhere")
        self.workers: list[int] = []
        self.block_tokens = 1
        # By reservation: its worker, its blocks, and its prompt tokens that are to be computed.
        self.booked: dict[str, tuple[int, list[int], int]] = {}
        self.seen: dict[int, set[int]] = {}

    async def _ask(
        self, method: str, path: str, content: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        told = dict(content or {})
        match [method, *path.strip("/").split("/")]:
            case ["POST", "workers"]:
                self.workers.append(told["worker_id"])
                self.block_tokens = told["block_size"]
            case ["POST", "reservations"]:
                number, tokens = told["worker_id"], told["effective_prefill_tokens"]
                self.booked[told["selection_id"]] = (number, told["sequence_hashes"], tokens)
                self.seen.setdefault(number, set()).update(told["block_hashes"])
            case ["POST", "reservations", name, "prefill_complete"]:
                number, blocks, _ = self.booked[name]
                self.booked[name] = (number, blocks, 0)
            case ["DELETE", "reservations", name]:
                del self.booked[name]
            case ["POST", "select"]:
                return {"worker_id": min(self.workers, key=lambda number: self.cost(number, told))}
            case unknown:
                raise AssertionError(unknown)
        return {}

    def cost(self, number: int, prompt: Mapping[str, Any]) -> float:
        here = [one for one in self.booked.values() if one[0] == number]
        ahead = sum(left for _, _, left in here)
        in_use = set(prompt["sequence_hashes"]).union(*(blocks for _, blocks, _ in here))
        seen = self.seen.get(number, set())
        cached = sum(block in seen for block in prompt["block_hashes"]) * self.block_tokens
        prefill = max(0, ahead + int(prompt["isl_tokens"]) - cached)
        return prefill / self.block_tokens + len(in_use)


@pytest.mark.parametrize("made", [None, {"workload": "agents"}])
async def test_the_simulator_s_dynamo_chooses_by_the_published_cost(
    made: dict[str, Any] | None,
) -> None:
    options = Options(
        trace=shipped_trace(),
        fleets=[Fleet("llama-3.1-70b-fp8-h100x4", 8)],
        policies=[POLICY],
        generator=made,
        duration_s=40.0,
        warmup_s=0.0,
    )
    service = Published()
    choices = await service.replay(diary(options, load=0.8), replicas=8)
    assert len(choices) > 20
    assert any(choice.cached for choice in choices)
    assert [choice for choice in choices if not choice.agrees] == []
    # Each that was booked has been freed.
    assert service.booked == {}


def test_only_where_one_replica_is_clearly_the_cheapest_must_both_agree() -> None:
    alike = Choice(1, {0: 100.0, 1: 101.0}, theirs=1, cached=False)
    wrong = Choice(2, {0: 100.0, 1: 120.0}, theirs=1, cached=True)
    right = Choice(3, {0: 100.0, 1: 120.0}, theirs=0, cached=True)
    tie = Choice(4, {0: 100.0, 1: 100.0}, theirs=1, cached=True)
    found = summary([alike, wrong, right, tie])
    assert (found["asked"], found["agree"]) == (4, 0.5)
    assert (found["clear"], found["clear_agree"]) == (2, 0.5)
    assert [one["request"] for one in found["disagreed"]] == [2]
