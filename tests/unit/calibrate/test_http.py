"""Answers as they come over the wire."""

from weighbridge.calibrate.engine.http import answer


def test_usage_that_does_not_tell_cached_tokens() -> None:
    told = answer({"prompt_tokens_details": {"cached_tokens": 32}}, 0, 1, None)
    assert told.cached_tokens == 32
    assert answer({"prompt_tokens": 5}, 0, 1, None).cached_tokens is None
    assert answer({"prompt_tokens_details": None}, 0, 1, None).cached_tokens is None
