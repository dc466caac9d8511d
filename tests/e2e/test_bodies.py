"""Bodies that are large, or that arrive strangely: weighed or refused, and never let past."""

import asyncio
import json
import struct
from functools import partial
from typing import Any

import pytest

from tests.e2e.harness import Running, Starter, memory, until
from weighbridge.config.listen import Transport

LIMITED = {
    "tenant_header": "x-tenant-id",
    "admission": {"tenants": {"nightly": {"priority": "sheddable", "max_request_mu": 0.01}}},
}
MODES = ["buffered", "buffered_partial", "full_duplex_streamed", "streamed", "none"]


def padded(body: dict[str, Any], size: int) -> bytes:
    """The body as JSON text of this many bytes."""
    return json.dumps(body).encode().ljust(size)


def literal(name: str, value: str) -> bytes:
    """A header field of HPACK, not indexed and not compressed."""
    return b"\0" + b"".join(bytes([len(part)]) + part.encode() for part in (name, value))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags])
    return head + struct.pack(">I", stream) + payload


async def with_trailers(running: Running, body: bytes) -> int:
    """Sends a request over HTTP/2 whose body ends with trailers; the first byte of its status
    (8 is 200 in HPACK's table), once it is answered."""
    host, _, port = running.stack.config.envoy.listen.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = {
        ":method": "POST",
        ":path": "/v1/chat/completions",
        ":scheme": "http",
        ":authority": "test",
        "content-type": "application/json",
    }
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
    writer.write(frame(1, 4, 1, b"".join(literal(*field) for field in head.items())))
    pieces = [body[at : at + 16_000] for at in range(0, len(body), 16_000)]
    for piece in pieces:
        writer.write(frame(0, 0, 1, piece))
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(frame(1, 5, 1, literal("x-checksum", "1")))
    await writer.drain()
    try:
        while True:
            found = await asyncio.wait_for(reader.readexactly(9), 10)
            size, kind, stream = int.from_bytes(found[:3], "big"), found[3], found[8]
            payload = await reader.readexactly(size)
            if kind == 1 and stream == 1:
                return payload[0] & 0x7F
    finally:
        writer.close()


@pytest.mark.parametrize("mode", MODES)
async def test_a_body_that_ends_with_trailers_comes_once(start: Starter, mode: str) -> None:
    async with start(body_mode=mode) as running:
        for size in (0, 40_000):
            body = padded(running.chat(f"trailers {size}"), size)
            assert await with_trailers(running, body) == 8
        await running.settled()


@pytest.mark.parametrize("mode", ["buffered", "buffered_partial", "full_duplex_streamed"])
async def test_a_body_that_passes_the_buffer_with_its_end_is_answered(
    start: Starter, mode: str
) -> None:
    async with start(body_mode=mode, envoy_settings={"body_buffer_bytes": 1 << 20}) as running:
        host, _, port = running.stack.config.envoy.listen.rpartition(":")
        for size, first in ((1_000_000, 900_000), (1_300_000, 900_000), (1_300_000, 1_048_577)):
            body = padded(running.chat(), size)
            reader, writer = await asyncio.open_connection(host, int(port))
            head = "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\n"
            head += f"content-type: application/json\r\ncontent-length: {size}\r\n\r\n"
            writer.write(head.encode() + body[:first])
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.write(body[first:])
            status = await asyncio.wait_for(reader.readline(), 10)
            assert status.startswith(b"HTTP/1.1 200"), (size, first)
            writer.close()
        await running.settled()


async def test_no_size_of_a_body_escapes_admission(start: Starter, transport: Transport) -> None:
    async with start(transport=transport, sidecar=LIMITED) as running:
        for size in (1_000, 1_100_000, 16_000_000, 16_777_216, 20_000_000):
            reply = await running.post(
                padded(running.chat(), size), headers={"x-tenant-id": "nightly"}
            )
            assert reply.status == 413, size
            assert reply.replica == ""
        await running.settled()


async def test_waiting_requests_keep_no_bodies(start: Starter, transport: Transport) -> None:
    queue = {"queue": {"window_ms": 1, "queue_window_ms": 1e9, "max_wait_ms": 100_000}}
    sidecar = {"admission": queue, "listen": {"held_body_bytes": 8 << 20}}
    # At the engine's own speed the first answer takes minutes: the others wait throughout.
    async with start(transport=transport, replicas=2, sidecar=sidecar, speed=1.0) as running:
        long = running.chat("story", max_tokens=20_000, ignore_eos=True, stream=True)
        first = asyncio.ensure_future(running.post(long))
        await until(partial(_runs, running))
        # Several times what may be held in all.
        body = padded(running.chat("hi", max_tokens=1), 2_000_000)
        others: list[asyncio.Task[Any]] = []

        async def send(requests: int) -> None:
            for _ in range(requests):
                others.append(asyncio.create_task(running.post(body)))
                await until(partial(_waits, running, len(others)))

        # The transport's own buffers grow with the first bodies, and are used again.
        await send(20)
        before = memory(running)
        await send(20)
        assert memory(running) - before < 20 * len(body) / 4
        for one in (first, *others):
            one.cancel()
        await asyncio.gather(first, *others, return_exceptions=True)
        await running.settled()


async def _runs(running: Running) -> bool:
    status = await running.stack.status()
    return any(door["running"] for door in status["admission"].values())


async def _waits(running: Running, requests: int) -> bool:
    status = await running.stack.status()
    doors = status["admission"].values()
    waiting = [one["requests"] for door in doors for one in door["waiting"].values()]
    return bool(sum(waiting) == requests)
