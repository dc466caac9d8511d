"""What Envoy refuses or answers by itself: its words reach the client, as JSON."""

import asyncio
import json
from typing import Any

import aiohttp
import grpc.aio
import pytest

from tests.e2e.harness import Running, Starter, until

BODY = b'{"model":"none","messages":[{"role":"user","content":"hi"}]}'


async def raw(running: Running, request: bytes) -> tuple[int, bytes, bytes]:
    """Status, head and body of the answer to bytes sent as they are."""
    host, port = running.stack.config.envoy.listen.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = await asyncio.wait_for(reader.read(65536), 20)
        assert piece, f"closed without an answer: {answer!r}"
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    length = [one for one in head.lower().split(b"\r\n") if one.startswith(b"content-length:")]
    while length and len(body) < int(length[0].split(b":")[1]):
        body += await asyncio.wait_for(reader.read(65536), 20)
    writer.transport.abort()
    return int(head.split()[1]), head, body


def post(*lines: bytes, version: bytes = b"HTTP/1.1", host: bytes = b"host: case") -> bytes:
    fixed = [b"POST /v1/chat/completions " + version, host, b"content-type: application/json"]
    length = b"content-length: %d" % len(BODY)
    return b"\r\n".join(line for line in [*fixed, *lines, length] if line) + b"\r\n\r\n" + BODY


REFUSALS = {
    "a header of 70 KB": (post(b"x-big: " + b"a" * 70_000), 431),
    "150 headers": (post(*(b"x-%d: 1" % number for number in range(150))), 431),
    "white space before a colon": (post(b"x-a : b"), 400),
    "a length and chunks": (post(b"transfer-encoding: chunked"), 400),
    "HTTP/1.0": (post(version=b"HTTP/1.0"), 426),
    "no HTTP": (b"GARBAGE\r\n\r\n", 400),
    "no host": (post(host=b""), 400),
}


async def test_the_refusals_of_envoy_s_codec_arrive_and_are_json(running: Running) -> None:
    for name, (request, wanted) in REFUSALS.items():
        status, head, body = await raw(running, request)
        assert status == wanted, name
        assert b"content-type: application/json" in head, name
        error = json.loads(body)["error"]
        assert error["type"] == "invalid_request_error", name
        assert error["message"], name


async def test_the_sidecar_s_words_are_not_wrapped(running: Running) -> None:
    status, _, body = await raw(running, post())
    assert status == 404
    assert json.loads(body)["error"]["code"] == "model_not_found"


async def test_headers_with_underscores_arrive_and_name_the_session(running: Running) -> None:
    for name in ("session_id", "conversation_id"):
        reply = await running.post(running.chat(), headers={name: "a-1", "user_name": "ann"})
        assert reply.status == 200
        decision = await running.decision_of(reply)
        assert decision["session_source"] == "header"


@pytest.mark.parametrize("origin", ["https://chat.example", "https://other.example"])
async def test_preflights_are_answered_where_configured(start: Starter, origin: str) -> None:
    asks = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    cors = {"origins": ["https://chat.example"]}
    async with start(replicas=1, envoy_settings={"cors": cors}) as running:
        async with running.client.options("/v1/chat/completions", headers=asks) as reply:
            allowed = reply.headers.get("access-control-allow-origin")
        assert (allowed == origin) == (origin == "https://chat.example")
        if allowed:
            assert reply.status == 200
            assert "authorization" in reply.headers["access-control-allow-headers"]
            answer = await running.post(running.chat(), headers={"origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin


async def test_without_cors_a_preflight_gets_a_clear_answer_and_is_not_weighed(
    running: Running,
) -> None:
    async with running.client.options("/v1/chat/completions") as reply:
        assert reply.status == 405
        assert json.loads(await reply.read())["error"]["code"] == "cors_not_allowed"
    assert await running.stack.decisions() == []


HEAP_BYTES = 128 << 20
# A body that is announced, and what is sent of it: it does not end.
ANNOUNCED, SENT, PIECE = 15_000_000, 14_000_000, 100_000
HOLDERS = 40
HOLD_SECONDS = 5.0


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_unfinished_bodies_take_no_more_than_their_share_of_memory(
    start: Starter, version: str
) -> None:
    async with start(replicas=1, envoy_settings={"max_heap_bytes": HEAP_BYTES}) as running:
        hold = hold_over_http2 if version == "2" else hold_over_http1
        holding = [asyncio.create_task(hold(running)) for _ in range(HOLDERS)]
        most = 0
        while not all(task.done() for task in holding):
            most = max(most, await envoy_heap(running))
            await asyncio.sleep(0.05)
        # Four times the bound was offered; what comes between two looks of Envoy's is on top of it.
        assert most < 2 * HEAP_BYTES
        assert sum(task.result() for task in holding) > HOLDERS // 2, "most were cut off"
        await until(lambda: answers(running))


async def envoy_heap(running: Running) -> int:
    """Bytes that Envoy has allocated."""
    url = f"http://{running.stack.config.envoy.admin}/memory"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return int((await answer.json(content_type=None))["allocated"])


async def hold_over_http1(running: Running) -> bool:
    """Sends a body that does not end; whether it was cut off."""
    host, port = running.stack.config.envoy.listen.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: case\r\n"
    head += b"content-type: application/json\r\n"
    writer.write(head + f"content-length: {ANNOUNCED}\r\n\r\n".encode())
    try:
        for _ in range(SENT // PIECE):
            writer.write(b" " * PIECE)
            await writer.drain()
        async with asyncio.timeout(HOLD_SECONDS):
            while not reader.at_eof():
                await asyncio.sleep(0.1)
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    finally:
        writer.transport.abort()
    return True


async def hold_over_http2(running: Running) -> bool:
    """The same over HTTP/2, as gRPC's client speaks it, on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    address = running.stack.config.envoy.listen
    channel: Any = grpc.aio.insecure_channel(address, options=options)
    async with channel:
        call = channel.stream_unary("/v1/chat/completions")()
        try:
            for _ in range(SENT // PIECE):
                await call.write(b" " * PIECE)
            async with asyncio.timeout(HOLD_SECONDS):
                await call.code()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return True
        except TimeoutError:
            return False
    return True


async def answers(running: Running) -> bool:
    """Whether a good request is served."""
    return (await running.post(running.chat())).status == 200
