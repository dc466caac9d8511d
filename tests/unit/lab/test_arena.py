"""The arena without its processes: who is chosen, what is counted, what agreeing means."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from tests.arena.agree import Pair, Side, order_of, page, together, write_trace
from tests.arena.clients import drive_closed
from tests.arena.climb import Climb, ladder
from tests.arena.dynamo import BLOCK_TOKENS, TOKEN_BYTES, Prompt, prompt_of
from tests.arena.dynamo_agree import POLICY, Choice, Selector, diary, summary
from tests.arena.live import headers_of
from tests.arena.measure import Run, Tokens, figures, limits
from tests.arena.report import markdown
from tests.arena.run import contestants, selected
from tests.arena.run import rungs as rungs_of
from tests.arena.setting import (
    Kill,
    Objective,
    Setting,
    kill_of,
    requests_in,
    setting_of,
    write_workload,
)
from weighbridge.errors import RefusedError
from weighbridge.lab.simulate import Fleet, Options
from weighbridge.lab.traces import load, requests_of, shipped_trace
from weighbridge.lab.traffic import Outcome

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
    # A whole name is that one alone.
    assert [one.name for one in selected(everyone, "weighbridge")] == ["weighbridge"]
    assert selected(everyone, "") == everyone
    with pytest.raises(RefusedError, match="no contestant is called 'dynamite'"):
        selected(everyone, "dynamite")


def test_a_setting_survives_its_results() -> None:
    content = json.loads(json.dumps(SETTING.json()))
    assert setting_of(content, Path(SETTING.trace)) == SETTING


RUN = Run(
    contestant="c",
    round=1,
    time_scale=1.0,
    span_seconds=10.0,
    speed=4.0,
    objective=SETTING.objective,
    cpu_seconds=0.5,
    added_ms=1.0,
    machine_busy=0.5,
    driver_busy=0.5,
    driver_late_ms=[0.1] * 99 + [9.0],
    kinds={},
    tokens=[Tokens(900, 300), Tokens(100, 0)],
)


def test_times_count_in_the_replicas_time() -> None:
    # 1,000 ms to the first token of 1,100 allowed; 40 ms a token of 50.
    late = replace(OUTCOME, ttft_ms=300.0)
    slow = replace(OUTCOME, total_ms=400.0)
    lost = replace(OUTCOME, error="500: no", ttft_ms=None)
    found = figures(RUN, [OUTCOME, late, slow, lost])
    assert (found.requests, found.failed) == (4, 1)
    assert found.slo_attainment == pytest.approx(0.25)
    assert found.goodput_rps == pytest.approx(0.1)
    assert found.tpot_p50_ms == pytest.approx(40.0)
    assert found.cache_hit_ratio == pytest.approx(0.3)
    assert found.work_max_over_mean == pytest.approx(600 * 2 / 700)
    assert found.router_cpu_s_per_1000 == pytest.approx(125.0)
    assert limits(found, SETTING.objective) == []
    # A batch waits as long as it must; of embeddings, there is nothing after the answer.
    batch = replace(RUN, kinds={0: "batch"})
    assert figures(batch, [late, late]).slo_attainment == 1.0
    embedded = replace(OUTCOME, ttft_ms=None, total_ms=270.0, output_tokens=0)
    slower = replace(embedded, total_ms=280.0)
    assert figures(RUN, [embedded, slower]).slo_attainment == 0.5
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
    # At the setting's own times already.
    written = list(requests_of(load(tmp_path / "t.jsonl"), duration_s=SETTING.seconds))
    assert [one.at_seconds for one in written] == [one.at_seconds for one in requests]
    assert [one.input_tokens for one in written] == [one.input_tokens for one in requests]
    assert [one.output_tokens for one in written] == [tokens for *_, tokens in answers]


@given(
    best=st.integers(min_value=-1, max_value=14),
    low=st.floats(min_value=0.1, max_value=2.0),
    more=st.floats(min_value=1.1, max_value=20.0),
)
def test_a_climb_finds_the_highest_rung_that_is_kept(best: int, low: float, more: float) -> None:
    rungs = ladder(low, low * more, steps=4)
    assert [rungs[0], rungs[-1]] == pytest.approx([low, low * more])
    climb = Climb(rungs)
    steps = 0
    while not climb.is_over:
        climb.note(0.99 if climb.at <= best else 0.98)
        steps += 1
    assert climb.kept == best
    assert steps == 4


def test_a_batch_s_client_says_that_it_has_time(tmp_path: Path) -> None:
    write_workload("mixed", 20.0, 1, tmp_path / "t.jsonl")
    requests = requests_in(replace(SETTING, trace=str(tmp_path / "t.jsonl")))
    keyed = contestants(None)[0]
    for request in requests:
        headers = headers_of(SETTING, keyed, request)
        assert headers["x-session-id"] == request.session
        # An hour of the replicas' time.
        assert headers.get("x-slo-ttft-ms") == ("900000" if request.kind == "batch" else None)


def test_what_cannot_be_searched_is_refused() -> None:
    for text in ("2", "2:1", "0:1", "a:b", "1:1"):
        with pytest.raises(RefusedError, match="--goodput"):
            rungs_of(text, 4)
    with pytest.raises(RefusedError, match="2 steps"):
        rungs_of("1:2", 1)


def test_a_run_that_the_machine_or_the_client_limits_says_so() -> None:
    run = replace(RUN, machine_busy=0.95, driver_busy=0.9, driver_late_ms=[20.0] * 10)
    assert limits(figures(run, [OUTCOME]), SETTING.objective) == [
        "the machine was 95% busy",
        "the client took 90% of a core",
        "the client was 80 ms late (p99)",
    ]


def test_fleets_and_kills_are_read_or_refused() -> None:
    assert SETTING.fleets == [("llama-3.1-8b-fp8-h100", 2)]
    mixed = replace(SETTING, profile="a:1,b:1")
    assert mixed.fleets == [("a", 1), ("b", 1)]
    for wrong in ("a:1,b", "a:2,b:1", "a:0,b:2", "a:x", ":2"):
        with pytest.raises(RefusedError, match="--profile"):
            _ = replace(SETTING, profile=wrong).fleets
    assert kill_of("at=60 kill=2 for=1.5") == Kill(60.0, 2, 1.5)
    for wrong in ("kill=2", "at=6 kill=0 for=1", "at=6 slow=2 for=1", "at=-1 kill=1 for=1"):
        with pytest.raises(RefusedError, match="no kill"):
            kill_of(wrong)


@pytest.mark.parametrize("workload", ["chat", "images", "mixed"])
def test_the_last_message_asks_for_an_answer_as_long_as_the_trace_s(
    workload: str, tmp_path: Path
) -> None:
    write_workload(workload, 20.0, 1, tmp_path / "t.jsonl")
    setting = replace(SETTING, trace=str(tmp_path / "t.jsonl"), time_scale=1.0, seconds=20.0)
    requests = requests_in(setting)
    kinds = {request.kind for request in requests}
    assert kinds >= ({"chat", "batch", "embeddings"} if workload == "mixed" else {"chat"})
    for request in requests[:200]:
        body = json.loads(request.body("m"))
        if request.kind == "embeddings":
            assert "x-emulate" not in body["input"]
            continue
        assert body["stream"]
        last = body["messages"][-1]["content"]
        text = last if isinstance(last, str) else last[-1]["text"]
        assert text.endswith(f" x-emulate-output-tokens: {request.output_tokens}")
        before = json.dumps(body["messages"][:-1])
        assert "x-emulate" not in before


async def test_each_client_sends_a_session_s_turns_one_after_the_other() -> None:
    open_now: set[str] = set()
    most = 0
    order: dict[str, list[int]] = {}

    async def answer(request: web.Request) -> web.Response:
        nonlocal most
        await request.read()
        session = request.headers["x-session-id"]
        assert session not in open_now
        open_now.add(session)
        most = max(most, len(open_now))
        order.setdefault(session, []).append(int(request.headers["x-number"]))
        await asyncio.sleep(0.001)
        open_now.remove(session)
        return web.Response(text='data: {"usage":{"completion_tokens":1}}\n\ndata: [DONE]\n\n')

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app) as server:
        requests = requests_in(SETTING)
        outcomes, sent = await drive_closed(
            str(server.make_url("/")),
            "m",
            requests,
            3,
            lambda one: {"x-session-id": one.session, "x-number": str(one.number)},
        )
    assert [outcome.number for outcome in outcomes] == [one.number for one in requests]
    assert all(outcome.is_ok for outcome in outcomes)
    assert set(sent) == {one.number for one in requests}
    assert most == 3
    assert all(numbers == sorted(numbers) for numbers in order.values())


def test_the_simulator_gets_requests_when_clients_sent_them(tmp_path: Path) -> None:
    requests = requests_in(SETTING)[:10]
    sent = [
        [one.session, round(one.at_seconds, 5), 100.0 - one.number / 10] for one in requests[:5]
    ]
    write_trace(SETTING, [], tmp_path / "t.jsonl", sent)
    written = list(requests_of(load(tmp_path / "t.jsonl")))
    assert len(written) == 5
    first = written[0].at_seconds
    assert [round(one.at_seconds - first, 3) for one in written] == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_several_settings_hold_where_all_shares_are_within_three_points() -> None:
    near = [pair("a", (0.9,), (0.92,)), pair("b", (0.5,), (0.49,))]
    far = [pair("a", (0.9,), (0.86,))]
    assert together({"light": near})["holds"]
    found = together({"light": near, "heavy": far})
    assert not found["holds"]
    assert [(row["setting"], row["slo_off"]) for row in found["rows"]] == [
        ("light", 0.02),
        ("light", 0.01),
        ("heavy", 0.04),
    ]


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
