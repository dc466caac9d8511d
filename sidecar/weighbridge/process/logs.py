"""One line per log record, as text or as JSON, on standard error."""

import json
import logging
import sys
import time
from collections import OrderedDict
from typing import Literal

# Lines of one kind that are written within a window, and its length, s.
MOST_LINES = 100
WINDOW_SECONDS = 10.0
KIND_CHARACTERS = 40
MOST_KINDS = 1000

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class TextLine(logging.Formatter):
    """`2026-01-31T12:00:00.123Z info message`."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{timestamp(record.created)} {record.levelname.lower()} {one_line(self, record)}"


class JsonLine(logging.Formatter):
    """`{"time": …, "level": …, "message": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": timestamp(record.created),
                "level": record.levelname.lower(),
                "message": one_line(self, record),
            },
            ensure_ascii=False,
        )


class Limit(logging.Filter):
    """Lets so many lines of one kind through at a time, then one that counts those left out.

    A fault that comes with each poll or connection must not fill the disk.
    """

    def __init__(self, most: int = MOST_LINES, seconds: float = WINDOW_SECONDS) -> None:
        super().__init__()
        self._most = most
        self._seconds = seconds
        # Of each kind: when its window began, lines in it, lines left out.
        self._kinds: OrderedDict[str, tuple[float, int, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        # The text before its values are put in; that of others may have them in it already.
        kind = f"{record.name} {record.levelno} {str(record.msg)[:KIND_CHARACTERS]}"
        began, count, left_out = self._kinds.pop(kind, (record.created, 0, 0))
        if not 0 <= record.created - began < self._seconds:
            if left_out:
                record.msg = f"{record.getMessage()} ({left_out:,} such lines were left out before)"
                record.args = ()
            began, count, left_out = record.created, 0, 0
        passes = count < self._most
        self._kinds[kind] = (began, count + 1, left_out + (not passes))
        if len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)
        return passes


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def one_line(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The message, and the traceback where there is one, with line breaks made visible."""
    text = record.getMessage()
    if record.exc_info:
        text = f"{text}: {formatter.formatException(record.exc_info)}"
    return text.replace("\n", "\\n")


def configure(level: LogLevel, style: LogFormat) -> None:
    """Sends the package's log to standard error. May be called again after a reload."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if style == "json" else TextLine())
    handler.addFilter(Limit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
