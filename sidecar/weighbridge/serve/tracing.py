"""OpenTelemetry traces: decisions as spans within the traces of Envoy or the client, over OTLP.

The core keeps the spans of sampled requests in a bounded queue; here they are taken about once a
second and sent. No request waits for that: what cannot be sent is lost, and counted.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import orjson
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from weighbridge import __version__
from weighbridge._core import Core
from weighbridge.address import parse_host_port
from weighbridge.config.records import Tracing

log = logging.getLogger(__name__)

BATCH = 512
EXPORTERS_LOG = "opentelemetry.exporter.otlp.proto.grpc.exporter"
# What OpenTelemetry's terms for GenAI call that which each path asks for.
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
Fields = Mapping[str, Any]
Value = str | bool | int | float


class Finished(SpanProcessor):
    """Keeps ended spans until they are taken."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """A span has ended."""
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        """All that have ended since."""
        taken, self._spans = self._spans, []
        return taken


class SpanSender:
    """Takes the core's spans and sends them to a collector."""

    def __init__(self, core: Core, collector: str, settings: Tracing) -> None:
        self._core = core
        self._collector = collector
        self._interval = settings.interval_seconds
        self._finished = Finished()
        self._provider = TracerProvider(
            resource=Resource.create(
                {"service.name": settings.service_name, "service.version": __version__}
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._finished)
        self._tracer = self._provider.get_tracer("weighbridge", __version__)
        self._exporter = OTLPSpanExporter(
            endpoint=collector, insecure=True, timeout=settings.timeout_seconds
        )
        # The core's clock starts with it; spans tell the time since 1970, ns.
        self._epoch_ns = time.time_ns() - core.now_us() * 1000
        self._sent = 0
        self._failed = 0
        self._failing = False
        # It says why a sending failed, each time anew: once is enough.
        logging.getLogger(EXPORTERS_LOG).addFilter(lambda _: not self._failing)

    def report(self) -> dict[str, int]:
        """Spans that the collector has taken, and those that could not be sent."""
        return {"sent": self._sent, "failed": self._failed}

    async def run(self) -> None:
        """Sends until cancelled, and what is left then."""
        try:
            while True:
                await asyncio.sleep(self._interval)
                await asyncio.to_thread(self.send)
        except asyncio.CancelledError:
            await asyncio.to_thread(self.send)
            self._exporter.shutdown()
            self._provider.shutdown()
            raise

    def send(self) -> None:
        """Sends what the core has; gives up for now at the first batch that is not taken."""
        while True:
            taken = self._core.take_spans(BATCH)
            if not taken:
                return
            for one in taken:
                self._span(orjson.loads(one))
            spans = self._finished.take()
            good = self._exporter.export(spans) is SpanExportResult.SUCCESS
            if good:
                self._sent += len(spans)
            else:
                self._failed += len(spans)
            if good == self._failing:
                text = "takes spans again" if good else "does not take spans; they are lost"
                log.log(logging.INFO if good else logging.ERROR, "%s %s", self._collector, text)
            self._failing = not good
            if not good:
                return

    def _span(self, fields: Fields) -> None:
        parent = fields["parent"]
        above = SpanContext(
            trace_id=int(parent["trace_id"], 16),
            span_id=int(parent["span_id"], 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
        span = self._tracer.start_span(
            "weighbridge decide",
            context=set_span_in_context(NonRecordingSpan(above)),
            kind=SpanKind.SERVER,
            attributes=attributes(fields),
            start_time=self._epoch_ns + fields["started_us"] * 1000,
        )
        refused = fields["outcome"].get("refused")
        # A client's own mistake is no error of ours.
        if refused and refused["status"] >= 500:
            span.set_status(Status(StatusCode.ERROR, refused["code"]))
        span.end(end_time=self._epoch_ns + fields["ended_us"] * 1000)


def attributes(fields: Fields) -> dict[str, Value]:
    """What a span tells: OpenTelemetry's names where there are any, never a prompt."""
    endpoint: str = fields["endpoint"]
    common: dict[str, Value] = {
        "gen_ai.operation.name": OPERATIONS.get(endpoint, endpoint),
        "weighbridge.request_id": fields["request_id"],
        "weighbridge.admission.wait_ms": fields["waited_us"] / 1000,
    }
    outcome: Fields = fields["outcome"]
    return common | (placed(outcome["placed"]) if "placed" in outcome else refusal(outcome))


def placed(record: Fields) -> dict[str, Value]:
    """What is told of a choice."""
    address = parse_host_port(record["replica"])
    return {
        "gen_ai.request.model": record["model"],
        "server.address": address.host,
        "server.port": address.port,
        "weighbridge.decision": record["number"],
        "weighbridge.replica": record["replica"],
        "weighbridge.reason": record["reason"],
        "weighbridge.steered": record["steered"],
        "weighbridge.tenant": record["tenant"],
        "weighbridge.session.source": record["session_source"],
        "weighbridge.mu": record["mu"],
        "weighbridge.mu.prefill": record["prefill_mu"],
        "weighbridge.mu.decode": record["decode_mu"],
        "weighbridge.prompt_tokens": record["prompt_tokens"],
        "weighbridge.cached_tokens": record["cached_tokens"],
        "weighbridge.output_tokens": record["output_tokens"],
        "weighbridge.replica.wait_ms": record["wait_ms"],
    }


def refusal(outcome: Fields) -> dict[str, Value]:
    """What is told of a refusal."""
    refused = outcome["refused"]
    return {"error.type": refused["code"], "http.response.status_code": refused["status"]}
