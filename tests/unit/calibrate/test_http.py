"""Streams as they come over the wire."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from weighbridge.calibrate.engine.http import (
    Events,
    answer,
    carries_token,
)


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
    events = Events()
    tokens = sum(events.feed(STREAM[begin:end]) for begin, end in pairwise(edges))
    assert tokens == 7
    assert events.done
    assert events.usage["prompt_tokens"] == 9


@given(st.binary(max_size=300))
def test_garbage_is_no_token(garbage: bytes) -> None:
    events = Events()
    events.feed(b"data: " + garbage + b"\n")
    assert events.usage == {} or isinstance(events.usage, dict)


def test_a_role_is_no_token() -> None:
    assert not carries_token({"delta": {"role": "assistant", "content": ""}})
    assert carries_token({"delta": {"reasoning_content": "hm"}})
    assert not carries_token({"delta": {}, "finish_reason": "stop"})


def test_usage_that_does_not_tell_cached_tokens() -> None:
    told = answer({"prompt_tokens_details": {"cached_tokens": 32}}, 0, 1, None)
    assert told.cached_tokens == 32
    assert answer({"prompt_tokens": 5}, 0, 1, None).cached_tokens is None
    assert answer({"prompt_tokens_details": None}, 0, 1, None).cached_tokens is None
