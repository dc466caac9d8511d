"""Traces: what the rows say is shared is shared in the bytes, and sessions grow turn by turn."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge import synthetic
from weighbridge.errors import RefusedError
from weighbridge.traces import (
    BLOCK_TOKENS,
    Row,
    TraceRequest,
    block_text,
    find_trace,
    read_rows,
    requests_of,
    shipped_trace,
    text_of,
)


def words(request: TraceRequest) -> list[str]:
    return " ".join(text for _, text in request.messages).split()


def shipped() -> list[TraceRequest]:
    return list(requests_of(read_rows(shipped_trace())))


def test_the_shipped_trace_is_what_its_maker_makes() -> None:
    lines = shipped_trace().read_text().splitlines()
    assert [json.loads(line) for line in lines] == synthetic.rows()


def test_the_shipped_trace_has_sessions_of_several_turns_streamed_and_not() -> None:
    requests = shipped()
    assert len(requests) >= 300
    sessions = {request.session for request in requests}
    assert len(sessions) == synthetic.SESSIONS
    assert sum(request.turn > 1 for request in requests) > 150
    assert {request.stream for request in requests} == {True, False}


def test_each_request_has_as_many_words_as_the_row_has_tokens() -> None:
    for row, request in zip(read_rows(shipped_trace()), shipped(), strict=True):
        assert len(words(request)) == row.input_tokens


def test_a_turn_begins_with_all_that_was_said_before() -> None:
    last: dict[str, TraceRequest] = {}
    for request in shipped():
        before = last.get(request.session)
        if before is None:
            assert request.turn == 1
        else:
            assert request.turn == before.turn + 1
            assert request.messages[: len(before.messages)] == before.messages
            assert [role for role, _ in request.messages[-2:]] == ["assistant", "user"]
        last[request.session] = request


def test_a_prompt_sent_again_is_the_same_session_and_the_same_text() -> None:
    rows = [Row(0, 1100, 5, (0, 1, 2)), Row(1, 1100, 5, (0, 1, 2))]
    first, again = requests_of(rows)
    assert again.session == first.session
    assert again.messages == first.messages
    assert again.turn == 2


def test_a_shared_document_is_shared_in_the_text() -> None:
    rows = [
        Row(0, 3 * BLOCK_TOKENS + 10, 5, (0, 1, 2, 3)),
        Row(1, 3 * BLOCK_TOKENS + 90, 5, (0, 1, 2, 4)),
    ]
    first, second = (words(request) for request in requests_of(rows[:1] + rows[1:]))
    assert first[: 3 * BLOCK_TOKENS] == second[: 3 * BLOCK_TOKENS]


def test_rows_that_share_only_the_system_prompt_are_sessions_of_their_own() -> None:
    rows = [Row(0, 1100, 5, (0, 1, 2)), Row(1, 1100, 5, (0, 3, 4))]
    assert [request.session for request in requests_of(rows)] == ["s1", "s2"]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 4 * BLOCK_TOKENS))
def test_text_has_the_tokens_asked_for_and_equal_blocks_give_equal_text(
    blocks: list[int], tokens: int
) -> None:
    text = text_of(blocks, tokens)
    assert len(text.split()) == tokens
    complete = min(len(blocks), tokens // BLOCK_TOKENS)
    longer = text_of([*blocks[:complete], 99], BLOCK_TOKENS * (complete + 1))
    assert longer.split()[: BLOCK_TOKENS * complete] == text.split()[: BLOCK_TOKENS * complete]


@given(st.integers(), st.integers(1, BLOCK_TOKENS))
def test_a_cut_block_is_the_beginning_of_the_whole_one(identity: int, tokens: int) -> None:
    assert block_text(identity).startswith(block_text(identity, tokens))


def test_bodies_are_chat_completions() -> None:
    request = shipped()[0]
    body = json.loads(request.body("m"))
    assert body["model"] == "m"
    assert body["max_tokens"] >= request.output_tokens
    assert body.get("stream", False) == request.stream


def test_lines_that_are_no_requests_are_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n{}\n'
    )
    with pytest.raises(RefusedError, match=r"trace\.jsonl:2: no request"):
        list(read_rows(path))
    with pytest.raises(RefusedError, match="No such file"):
        list(read_rows(tmp_path / "none"))


def test_a_trace_beside_the_checkout_is_taken(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    assert find_trace(None, checkout) == shipped_trace()
    beside = tmp_path / "shared" / "traces" / "mooncake_conversation.jsonl"
    beside.parent.mkdir(parents=True)
    beside.touch()
    assert find_trace(None, checkout) == beside
    assert find_trace(Path("x"), checkout) == Path("x")
