"""Server-sent events as they come over the wire."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.net import sse
from weighbridge.net.sse import MOST_EVENT_BYTES, Completion, Events, carries_token


def event(**fields: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


STREAM = b"".join(
    [
        event(choices=[{"index": 0, "delta": {"role": "assistant"}}]),
        *(event(choices=[{"index": 0, "delta": {"content": f"w{i}"}}]) for i in range(5)),
        # Half of a character: a token without text yet.
        event(choices=[{"index": 0, "delta": {"content": ""}}]),
        event(choices=[{"index": 0, "text": "x"}]),
        event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 7}),
        b": comment\n\ndata: [DONE]\n\n",
    ]
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_tokens_are_counted_however_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = sorted({0, len(STREAM), *cuts})
    events = Completion()
    tokens = sum(events.feed(STREAM[begin:end]) for begin, end in pairwise(edges))
    assert tokens == 7
    assert events.done
    assert events.usage["prompt_tokens"] == 9


@given(st.binary(max_size=300))
def test_garbage_is_no_token(garbage: bytes) -> None:
    events = Completion()
    events.feed(b"data: " + garbage + b"\n")
    assert events.usage == {} or isinstance(events.usage, dict)


def test_a_role_is_no_token() -> None:
    assert not carries_token({"delta": {"role": "assistant", "content": ""}})
    assert carries_token({"delta": {"reasoning_content": "hm"}})
    assert not carries_token({"delta": {}, "finish_reason": "stop"})


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_data_of_several_lines_is_one_event(end: bytes) -> None:
    lines = (b"event: x", b": a comment", b"data: one", b"data:two", b"id: 7", b"", b"data: 3", b"")
    assert list(Events().feed(b"".join(line + end for line in lines))) == [b"one\ntwo", b"3"]


def test_what_is_written_is_read() -> None:
    [data] = Events().feed(sse.event("status", {"a": "ü\n\nb"}))
    assert json.loads(data) == {"a": "ü\n\nb"}


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["line", "event"])
def test_an_event_without_end_is_given_up(end: bytes) -> None:
    events = Events()
    piece = b"data: " + b"x" * (1 << 20) + end
    for _ in range(MOST_EVENT_BYTES // len(piece)):
        list(events.feed(piece))
    with pytest.raises(ValueError, match="more than"):
        list(events.feed(piece * 2))


@pytest.mark.parametrize(
    "strange",
    [b"[]", b"7", b'{"choices": 1}', b'{"choices": [1, {"delta": 2}], "usage": "x"}', b"{" * 999],
)
def test_strange_events_are_no_tokens(strange: bytes) -> None:
    told = Completion()
    assert told.feed(b"data: " + strange + b"\n\n") == 0
    assert (told.usage, told.done) == ({}, False)
