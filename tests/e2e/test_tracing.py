"""OpenTelemetry traces: the decision is a span within Envoy's trace, or within the client's."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc

from tests.e2e.harness import Starter, until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
UNSAMPLED_TRACE = "a3ce929d0e0e47364bf92f3577b34da6"
CLIENT_SPAN = "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"}
UNSAMPLED = {"traceparent": f"00-{UNSAMPLED_TRACE}-{CLIENT_SPAN}-00"}
SECRET = "what the prompt says is nobody's business"


class Collector(otlp_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent, each with its service's name."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 (gRPC's name)
        """Takes spans."""
        for resource in request.resource_spans:
            service = fields(resource.resource)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [(service, span) for span in scope.spans]
        return otlp.ExportTraceServiceResponse()

    def of(self, service: str) -> list[Any]:
        """The spans of one service."""
        return [span for name, span in self.spans if name == service]


def fields(message: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {
        one.key: getattr(one.value, one.value.WhichOneof("value")) for one in message.attributes
    }


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[Collector, int]]:
    """A collector on a free port."""
    kept = Collector()
    server = grpc.aio.server()
    add: Callable[..., None] = otlp_grpc.add_TraceServiceServicer_to_server
    add(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield kept, port
    finally:
        await server.stop(0)


def tracing(port: int, **more: Any) -> dict[str, Any]:
    return {"tracing": {"collector": f"127.0.0.1:{port}", "interval_seconds": 0.2} | more}


def arrived(count: int, kept: Collector) -> Callable[[], bool]:
    return lambda: len(kept.of("weighbridge")) >= count


async def test_a_decision_is_a_span_below_envoys(start: Starter) -> None:
    async with collector() as (kept, port), start(sidecar=tracing(port), replicas=2) as running:
        reply = await running.post(running.chat(SECRET), SAMPLED | {"x-session-id": "s"})
        assert reply.status == 200
        decision = await running.decision_of(reply)
        assert (await running.post(running.chat(), UNSAMPLED)).status == 200
        assert (await running.post(running.chat(model="nobody"), SAMPLED)).status == 404
        await until(arrived(2, kept))
        # Envoy sends its spans every 5 s, those of its calls before those of the requests.
        await until(
            lambda: sum(one.parent_span_id.hex() == CLIENT_SPAN for one in kept.of("envoy")) >= 2
        )

    placed, refused = kept.of("weighbridge")
    above = {span.span_id: span for span in kept.of("envoy")}
    for span in (placed, refused):
        assert span.trace_id.hex() == TRACE
        call = above[span.parent_span_id]
        assert above[call.parent_span_id].parent_span_id.hex() == CLIENT_SPAN
        assert call.start_time_unix_nano <= span.end_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= call.end_time_unix_nano
    found = fields(placed)
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.request.model"] == running.stack.model
    assert found["weighbridge.replica"] == reply.replica == decision["replica"]
    assert found["weighbridge.request_id"] == reply.headers["x-request-id"]
    assert found["weighbridge.reason"] == decision["reason"]
    assert found["weighbridge.mu"] == decision["mu"]
    assert found["weighbridge.cached_tokens"] == decision["cached_tokens"]
    assert fields(refused)["error.type"] == "model_not_found"
    assert not any(SECRET in str(span) for _, span in kept.spans)


async def test_without_envoys_tracer_the_clients_span_is_above(start: Starter) -> None:
    async with (
        collector() as (kept, port),
        start(sidecar=tracing(port, envoy=False), replicas=1) as running,
    ):
        for headers in ({}, UNSAMPLED, {"traceparent": "00-nonsense"}, SAMPLED):
            assert (await running.post(running.chat(), headers)).status == 200
        await until(arrived(1, kept))
        status = await running.stack.status()
        assert status["spans"] == {"sent": 1, "failed": 0}
    (span,) = kept.of("weighbridge")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CLIENT_SPAN)
    assert not kept.of("envoy")


async def test_a_collector_that_is_gone_costs_spans_alone(start: Starter, tmp_path: Path) -> None:
    async with collector() as (_, port):
        pass
    nobody = tracing(port, envoy=False, timeout_seconds=0.3)
    async with start(sidecar=nobody, replicas=1) as running:
        for count in (1, 2):
            assert (await running.post(running.chat(), SAMPLED)).status == 200

            async def failed(count: int = count) -> bool:
                return bool((await running.stack.status())["spans"]["failed"] == count)

            await until(failed)
        log = (tmp_path / "serve.log").read_text()
        assert log.count("they are lost") == log.count("Failed to export") == 1, "said once"
