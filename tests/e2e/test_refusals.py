"""What cannot be served: the documented answer, in OpenAI's shape, and nothing left charged."""

import asyncio
import json
import re
import socket
from typing import Any

import aiohttp
import pytest

from tests.e2e.harness import Reply, Running, Starter, until


def error_of(reply: Reply) -> dict[str, Any]:
    assert reply.headers["content-type"].startswith("application/json")
    error: dict[str, Any] = json.loads(reply.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_bodies_that_cannot_be_read(running: Running) -> None:
    for body in (b"{", b'{"model": ', b"[]", b"nonsense", b'{"model": 1}', b"\xff\xfe"):
        reply = await running.post(body)
        assert reply.status == 400, body
        assert error_of(reply)["type"] == "invalid_request_error"
        assert reply.replica == ""


async def test_an_empty_body(running: Running) -> None:
    reply = await running.post(None)
    assert reply.status == 400
    assert error_of(reply)["code"] == "empty_body"


async def test_a_content_type_that_is_no_json(running: Running) -> None:
    reply = await running.post(b"a=1", headers={"content-type": "text/plain"})
    assert reply.status == 415
    assert error_of(reply)["code"] == "unsupported_content_type"


async def test_an_unknown_model(running: Running) -> None:
    reply = await running.post(running.chat(model="gpt-none"))
    assert reply.status == 404
    assert error_of(reply)["code"] == "model_not_found"
    assert "gpt-none" in error_of(reply)["message"]


@pytest.mark.parametrize("replicas", [2])
async def test_no_replica_that_is_well(start: Starter, replicas: int) -> None:
    # By default half of them stay, so that a mistaken check cannot empty a pool.
    health = {"most_ejected": 1}
    async with start(replicas=replicas, sidecar={"health": health}) as running:
        for replica in range(replicas):
            await running.fault(replica, kind="crash")

        async def all_ejected() -> bool:
            status = await running.stack.status()
            return all(one["state"] == "ejected" for one in status["replicas"])

        await until(all_ejected)
        reply = await running.post(running.chat())
        assert reply.status == 503
        assert error_of(reply)["code"] == "no_replica"
        assert int(reply.headers["retry-after"]) >= 1


async def test_a_replica_that_fails_is_told_of_in_the_same_shape(start: Starter) -> None:
    # Nobody watches health, so requests are sent to what is gone.
    settings = {"health": {"enabled": False}}
    async with start(replicas=1, sidecar=settings) as running:
        await running.fault(0, kind="crash")
        reply = await running.post(running.chat())
        assert reply.status == 503
        assert error_of(reply)["code"] == "replica_failed"
        assert error_of(reply)["type"] == "server_error"
        assert reply.headers["x-weighbridge-answer-bytes"] == "0"


async def test_an_answer_that_had_begun_is_told_from_one_that_had_not(start: Starter) -> None:
    begins = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    taken = 0

    async def begin_and_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        head = await reader.readuntil(b"\r\n\r\n")
        # Envoy's health checks come here too.
        if head.startswith(b"POST "):
            taken += 1
            length = re.search(rb"content-length: (\d+)", head)
            await (reader.readexactly(int(length[1])) if length else reader.readuntil(b"0\r\n\r\n"))
        # The head and the end in one segment: Envoy sees the end before the sidecar answers.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        writer.write(begins)
        writer.write_eof()
        writer.close()

    settings = {"health": {"enabled": False}}
    async with start(replicas=1, sidecar=settings) as running:
        await running.fault(0, kind="crash")
        host, port = running.stack.endpoints[0].split(":")
        async with await asyncio.start_server(begin_and_die, host, int(port)):
            await until(lambda: is_healthy(running))
            reply = await running.post(running.chat())
        # Its headers were still with the sidecar: the client saw nothing, and nothing was repeated.
        assert (reply.status, taken) == (502, 1)
        assert error_of(reply)["code"] == "replica_failed"
        assert int(reply.headers["x-weighbridge-answer-bytes"]) >= len(begins)


async def is_healthy(running: Running) -> bool:
    """Whether Envoy sends requests to its replicas."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{running.stack.envoy_admin_url}/clusters") as page,
    ):
        lines = (await page.text()).splitlines()
    flags = [line for line in lines if line.startswith("replicas::") and "health_flags" in line]
    return bool(flags) and all(line.endswith("healthy") for line in flags)
