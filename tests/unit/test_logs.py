"""The log: every record is one line, whatever is in it."""

import json
import logging
import sys

from hypothesis import given
from hypothesis import strategies as st

from weighbridge.logs import JsonLine, TextLine, timestamp


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
