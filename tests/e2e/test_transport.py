"""The ext_proc server itself, asked over gRPC: health, raw messages, sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conformance.exchange import Exchange, refused
from tests.e2e.harness import Running, Starter
from weighbridge.config.listen import Transport
from weighbridge.envoy.names import EXT_PROC_SERVICE
from weighbridge.lab.ports import LOOPBACK, find_free_run

SERVING = health_pb2.HealthCheckResponse.SERVING


@asynccontextmanager
async def open_stream(running: Running) -> AsyncIterator[Any]:
    """An ext_proc stream of raw bytes."""
    async with grpc.aio.insecure_channel(running.stack.config.listen.address) as channel:
        method: Any = channel.stream_stream(
            f"/{EXT_PROC_SERVICE}/Process", request_serializer=None, response_deserializer=None
        )
        yield method()


@pytest.mark.parametrize("service", ["liveness", "readiness", EXT_PROC_SERVICE])
async def test_health_is_served_for_each_service(running: Running, service: str) -> None:
    async with grpc.aio.insecure_channel(running.stack.config.listen.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == SERVING


async def test_an_unknown_service_has_no_health(running: Running) -> None:
    async with grpc.aio.insecure_channel(running.stack.config.listen.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="none"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_bytes_that_are_no_message_end_the_stream_and_nothing_else(running: Running) -> None:
    async with open_stream(running) as call:
        await call.write(b"\xff\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    assert (await running.post(running.chat())).status == 200


async def test_a_message_above_the_limit_ends_the_stream(
    start: Starter, transport: Transport
) -> None:
    listen = {"address": f"{LOOPBACK}:{find_free_run(40) + 39}", "transport": transport}
    async with start(sidecar={"listen": listen | {"max_message_bytes": 64 << 10}}) as running:
        async with open_stream(running) as call:
            await call.write(b"\0" * (65 << 10))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
        assert caught.value.code() in (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.OUT_OF_RANGE,
        )


async def test_a_body_above_the_limit_is_refused_and_not_let_past(
    start: Starter, transport: Transport
) -> None:
    listen = {"address": f"{LOOPBACK}:{find_free_run(40) + 39}", "transport": transport}
    async with start(sidecar={"listen": listen | {"max_message_bytes": 64 << 10}}) as running:
        async with open_stream(running) as call:
            exchange = Exchange(call)
            await exchange.request_headers()
            await exchange.request_body(b" " * (65 << 10))
            status, error = refused(await exchange.reply())
        assert (status, error["code"]) == (413, "body_too_large")


async def test_a_unix_socket_serves_as_well(
    start: Starter, transport: Transport, tmp_path: Path
) -> None:
    listen = {"address": f"unix:{tmp_path / 'w.sock'}", "transport": transport}
    async with start(sidecar={"listen": listen}) as running:
        replies = await asyncio.gather(*(running.post(running.chat(f"{n}")) for n in range(5)))
        assert [reply.status for reply in replies] == [200] * 5
        assert len(await running.stack.decisions()) == 5
