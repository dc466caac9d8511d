"""Traces for drivers: what rows say is shared is shared in the bytes; sessions grow by turns."""

import json
from pathlib import Path
from typing import Any

import pytest

from weighbridge.errors import RefusedError
from weighbridge.lab import synthetic
from weighbridge.lab.traces import (
    BLOCK_TOKENS,
    TraceRequest,
    generate,
    load,
    requests_of,
    shipped_trace,
)


def messages(request: TraceRequest) -> list[dict[str, str]]:
    body: dict[str, Any] = json.loads(request.body("m"))
    return list(body["messages"])


def words(request: TraceRequest) -> list[str]:
    return " ".join(message["content"] for message in messages(request)).split()


def shipped() -> list[TraceRequest]:
    return list(requests_of(load(shipped_trace())))


def mooncake(tmp_path: Path, *rows: tuple[float, int, int, list[int]]) -> Path:
    path = tmp_path / "trace.jsonl"
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    return path


def test_the_shipped_trace_is_what_its_maker_makes() -> None:
    lines = shipped_trace().read_text().splitlines()
    assert [json.loads(line) for line in lines] == synthetic.rows()


def test_the_shipped_trace_has_sessions_of_several_turns_streamed_and_not() -> None:
    requests = shipped()
    assert len(requests) >= 300
    sessions = {request.session for request in requests}
    assert synthetic.SESSIONS <= len(sessions) < 1.2 * synthetic.SESSIONS
    assert sum(request.turn > 1 for request in requests) > 150
    assert {request.stream for request in requests} == {True, False}
    assert [request.number for request in requests] == list(range(len(requests)))


def test_each_request_has_as_many_words_as_its_row_has_tokens() -> None:
    rows = sorted(synthetic.rows(), key=lambda row: float(row["timestamp"]))
    for row, request in zip(rows, shipped(), strict=True):
        assert len(words(request)) == request.input_tokens == row["input_length"]
        assert request.output_tokens == row["output_length"] <= request.max_tokens


def test_a_turn_begins_with_all_that_was_said_before() -> None:
    last: dict[str, TraceRequest] = {}
    for request in shipped():
        before = last.get(request.session)
        if before is None:
            assert request.turn == 1
        else:
            assert request.turn == before.turn + 1
            said = messages(before)
            assert messages(request)[: len(said)] == said
        last[request.session] = request


def test_a_prompt_sent_again_is_the_same_session_and_the_same_text(tmp_path: Path) -> None:
    row = (0, 1600, 5, [0, 1, 2, 3])
    first, again = requests_of(load(mooncake(tmp_path, row, row)))
    assert again.session == first.session
    assert messages(again) == messages(first)


def test_a_shared_document_is_shared_in_the_text(tmp_path: Path) -> None:
    rows = [(0, 3 * BLOCK_TOKENS + 10, 5, [0, 1, 2, 3]), (1, 3 * BLOCK_TOKENS, 5, [0, 1, 9])]
    first, second = (words(request) for request in requests_of(load(mooncake(tmp_path, *rows))))
    assert first[: 2 * BLOCK_TOKENS] == second[: 2 * BLOCK_TOKENS]
    assert first[2 * BLOCK_TOKENS :][:10] != second[2 * BLOCK_TOKENS :][:10]


def test_the_rate_is_raised_by_sessions_that_are_copies_in_shape_alone() -> None:
    trace = load(shipped_trace())
    single = {request.session: request for request in requests_of(trace)}
    many = list(requests_of(trace, rate=3 * trace.rate, seed=1))
    assert len(many) == pytest.approx(3 * trace.requests, rel=0.02)
    copied = next(request for request in many if "~" in request.session and request.turn == 1)
    original = single[copied.session.split("~")[0]]
    assert words(copied)[:20] == words(original)[:20], "the system prompt is the same"
    assert words(copied)[-20:] != words(original)[-20:]
    assert [request.at_seconds for request in many] == sorted(r.at_seconds for r in many)


def test_bodies_are_chat_completions() -> None:
    for request in shipped()[:4]:
        body = json.loads(request.body("m"))
        assert body["model"] == "m"
        assert body["max_tokens"] == request.max_tokens
        assert body.get("stream", False) == request.stream


def test_a_trace_is_made_saved_and_read_back(tmp_path: Path) -> None:
    trace = generate(duration_s=20, tenants=3, seed=7)
    trace.save(tmp_path / "made.jsonl")
    again = load(tmp_path / "made.jsonl")
    assert (again.requests, again.sessions) == (trace.requests, trace.sessions)
    pairs = list(zip(requests_of(trace), requests_of(again), strict=True))
    assert all(one.body("m") == other.body("m") for one, other in pairs)
    assert {one.tenant for one, _ in pairs} <= {"t1", "t2", "t3"}


def test_what_is_not_said_of_a_group_stays_as_it_is() -> None:
    half = generate(seed=3, duration_s=60.0, agents={"share": 0.5})
    usual = generate(seed=3, duration_s=60.0, agents={"share": 0.15})
    assert usual.requests == generate(seed=3, duration_s=60.0).requests
    # Agents take more turns than people.
    assert half.requests / half.sessions > usual.requests / usual.sessions


def test_mistakes_are_named(tmp_path: Path) -> None:
    path = mooncake(tmp_path, (0, 5, 1, [1]))
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(RefusedError, match=r"trace\.jsonl:2: missing field"):
        load(path)
    with pytest.raises(RefusedError, match="No such file"):
        load(tmp_path / "none")
    with pytest.raises(RefusedError, match="no format is called 'xml'"):
        load(path, "xml")
    with pytest.raises(RefusedError, match="tenantz"):
        generate(tenantz=1)
    with pytest.raises(RefusedError, match="rate must be above 0"):
        list(requests_of(load(shipped_trace()), rate=-1))
