"""The log: every record is one line, whatever is in it."""

import json
import logging
import sys

from hypothesis import given
from hypothesis import strategies as st

from weighbridge.process.logs import JsonLine, Limit, TextLine, timestamp


def record(message: str, with_traceback: bool = False) -> logging.LogRecord:
    trouble = None
    if with_traceback:
        try:
            raise KeyError(message)
        except KeyError:
            trouble = sys.exc_info()
    return logging.LogRecord("w", logging.WARNING, "f", 1, "%s", (message,), trouble)


@given(st.text(), st.booleans())
def test_one_record_is_one_line(message: str, with_traceback: bool) -> None:
    for style in (TextLine(), JsonLine()):
        assert "\n" not in style.format(record(message, with_traceback))
    assert json.loads(JsonLine().format(record(message)))["level"] == "warning"


def test_time_is_utc_to_the_millisecond() -> None:
    assert timestamp(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"


def test_a_fault_that_repeats_is_written_now_and_then_and_counted() -> None:
    limit, now = Limit(most=3, seconds=10), 1_700_000_000.0

    def written(seconds: float, times: int, text: str = "cannot accept %s") -> list[str]:
        lines = []
        for number in range(times):
            one = logging.LogRecord("w", logging.ERROR, "f", 1, text, (number,), None)
            one.created = now + seconds
            if limit.filter(one):
                lines.append(one.getMessage())
        return lines

    assert written(0, 1000) == [f"cannot accept {n}" for n in range(3)]
    assert written(5, 1000) == []
    assert written(5, 1, "another %s") == ["another 0"], "others are not held back"
    first, *others = written(11, 1000)
    assert first == "cannot accept 0 (1,997 such lines were left out before)"
    assert others == ["cannot accept 1", "cannot accept 2"]


def test_kinds_of_lines_that_never_repeat_take_no_memory_for_ever() -> None:
    limit = Limit()
    for number in range(5000):
        one = logging.LogRecord("w", logging.ERROR, "f", 1, f"{number}", (), None)
        assert limit.filter(one)
    assert len(limit._kinds) <= 1000
