"""Spans are sent on, whatever breaks meanwhile."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from weighbridge._core import Core
from weighbridge.config.records import Tracing
from weighbridge.process.loops import Loops
from weighbridge.serve.tracing import SpanSender

REFUSED: dict[str, Any] = {
    "parent": {"trace_id": "1" * 32, "span_id": "2" * 16, "is_sampled": True},
    "request_id": "r",
    "endpoint": "/v1/chat/completions",
    "started_us": 1,
    "ended_us": 2,
    "waited_us": 0,
    "outcome": {"refused": {"status": 404, "code": "model_not_found"}},
}


class Spans:
    """The core's part in this: what it gives, one answer after the other."""

    def __init__(self, *answers: Exception | list[str]) -> None:
        self.answers = list(answers)

    def now_us(self) -> int:
        return 0

    def take_spans(self, most: int) -> list[str]:
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, Exception):
            raise answer
        return answer


class Exporter:
    """The collector's side: it takes no more once it is shut down."""

    def __init__(self) -> None:
        self.is_shut = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE if self.is_shut else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.is_shut = True


async def test_a_sending_that_breaks_does_not_end_all_sendings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter = Exporter()
    monkeypatch.setattr("weighbridge.serve.tracing.OTLPSpanExporter", lambda **_: exporter)
    core = Spans(RuntimeError("broken"), [], [], [json.dumps(REFUSED)])
    settings = Tracing(collector="127.0.0.1:1", interval_seconds=0.01)
    sender = SpanSender(cast("Core", core), "127.0.0.1:1", settings)
    loops = Loops(pause_seconds=0.01)
    running = loops.start("spans", sender.run)
    async with asyncio.timeout(5):
        while not any(sender.report().values()):
            await asyncio.sleep(0.01)
    assert sender.report() == {"sent": 1, "failed": 0}
    assert loops.failures == {"spans": 1}
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert exporter.is_shut
