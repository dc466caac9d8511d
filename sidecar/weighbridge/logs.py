"""One line per log record, as text or as JSON, on standard error."""

import json
import logging
import sys
import time
from typing import Literal

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
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
