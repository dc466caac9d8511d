"""What Envoy refuses or answers by itself: its words reach the client, as JSON."""

import asyncio
import json

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


async def test_unfinished_bodies_take_no_more_than_their_share_of_memory(start: Starter) -> None:
    async with start(replicas=1, envoy_settings={"max_heap_bytes": 128 << 20}) as running:
        host, port = running.stack.config.envoy.listen.split(":")
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: case\r\n"
        head += b"content-type: application/json\r\ncontent-length: 15000000\r\n\r\n"
        writers: list[asyncio.StreamWriter] = []

        async def hold() -> None:
            _, writer = await asyncio.open_connection(host, int(port))
            writers.append(writer)
            writer.write(head)
            for _ in range(140):
                writer.write(b" " * 100_000)
                await writer.drain()

        # Near the bound Envoy takes no further request.
        holding = [asyncio.create_task(hold()) for _ in range(12)]
        await until(lambda: is_refused(running))
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await until(lambda: answers(running))


async def is_refused(running: Running) -> bool:
    """Whether Envoy says that it is short of memory."""
    reply = await running.post(running.chat())
    if reply.status == 200:
        return False
    assert reply.status == 503
    assert json.loads(reply.body)["error"]["code"] == "gateway_refused"
    return True


async def answers(running: Running) -> bool:
    """Whether a good request is served."""
    return (await running.post(running.chat())).status == 200
