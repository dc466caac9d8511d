"""What Envoy repeats, and what no more: no request takes a fleet down."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Running, Starter, until
from weighbridge.lab.ports import LOOPBACK, find_free_run
from weighbridge.lab.stack import DEFAULT_PROFILE

OK = b'{"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'


@dataclass
class Fake:
    """A replica that does as its body says: `die`, `busy` (503), else answers."""

    port: int
    asked: int = 0
    headers: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = [
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        ]
        body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
        if not head.startswith(b"POST "):
            return await self._answer(writer, b"200 OK", b"[]")
        self.asked += 1
        self.headers.append(head)
        does = json.loads(body).get("user")
        if does == "die":
            return False
        if does == "busy":
            return await self._answer(writer, b"503 Service Unavailable", b"{}")
        return await self._answer(writer, b"200 OK", OK)

    @staticmethod
    async def _answer(writer: asyncio.StreamWriter, status: bytes, body: bytes) -> bool:
        size = str(len(body)).encode()
        kind = b"content-type: application/json\r\ncontent-length: " + size
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + kind + b"\r\n\r\n" + body)
        await writer.drain()
        return True


@pytest.fixture(params=["listed", "discovered"])
def found_in(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """A fleet in the configuration, and one that is found."""
    return tmp_path / "found.json" if request.param == "discovered" else None


def list_in(file: Path, endpoints: list[str], ads: str) -> dict[str, Any]:
    """Lists replicas in a file; the settings with which the sidecar reads it and serves it."""
    listed = [{"endpoint": one, "profile": DEFAULT_PROFILE} for one in endpoints]
    file.write_text(json.dumps({"replicas": listed}))
    sources = [{"kind": "file", "path": str(file)}]
    discovery = {"sources": sources, "warm_up_seconds": 0, "ads": {"address": ads}}
    return {"replicas": [], "discovery": discovery}


@asynccontextmanager
async def fakes(
    start: Starter, count: int, found_in: Path | None = None
) -> AsyncIterator[tuple[Running, list[Fake]]]:
    """A stack whose replicas are `count` of those; `found_in`: a file of them, which the sidecar
    reads and hands on to Envoy, in place of the list in its configuration."""
    settings: dict[str, Any] = {"health": {"enabled": False}, "telemetry": {"enabled": False}}
    # Beside the five ports of the stack itself.
    base = find_free_run(count + 1, find_free_run(5) + 5)
    endpoints = [f"{LOOPBACK}:{base + number}" for number in range(count)]
    if found_in is not None:
        settings |= list_in(found_in, endpoints, f"{LOOPBACK}:{base + count}")
    async with start(replicas=count, base_port=base, sidecar=settings) as running:
        servers = []
        replicas = []
        for number, endpoint in enumerate(endpoints):
            await running.fault(number, kind="crash")
            host, port = endpoint.split(":")
            replicas.append(Fake(int(port)))
            servers.append(await asyncio.start_server(replicas[-1].serve, host, int(port)))
        await until(all_healthy(running, count))
        try:
            yield running, replicas
        finally:
            for server in servers:
                server.close()


def all_healthy(running: Running, count: int) -> Callable[[], Awaitable[bool]]:
    """Whether Envoy takes all replicas for well."""

    async def check() -> bool:
        async with running.client.get(f"{running.stack.envoy_admin_url}/clusters") as page:
            lines = (await page.text()).splitlines()
        flags = [one for one in lines if one.startswith("replicas::") and "health_flags" in one]
        return len(flags) == count and all(one.endswith("::healthy") for one in flags)

    return check


async def test_a_request_of_which_replicas_die_meets_two_and_its_client_is_told_not_to_repeat_it(
    start: Starter, found_in: Path | None
) -> None:
    async with fakes(start, 5, found_in) as (running, replicas):
        reply = await running.post(running.chat(user="die"))
        assert sum(one.asked for one in replicas) == 2
        assert reply.status == 502
        assert reply.headers["x-should-retry"] == "false"
        assert json.loads(reply.body)["error"]["code"] == "replicas_failed"
        # What Envoy counts by is told to no replica.
        assert not any(b"x-weighbridge-" in head for one in replicas for head in one.headers)


async def test_no_replica_of_a_small_fleet_is_asked_twice(
    start: Starter, found_in: Path | None
) -> None:
    async with fakes(start, 2, found_in) as (running, replicas):
        reply = await running.post(running.chat(user="busy"))
        assert [one.asked for one in replicas] == [1, 1]
        assert reply.status == 503
        assert "x-should-retry" not in reply.headers


async def test_a_fleet_that_says_503_is_not_asked_four_times_by_everybody(start: Starter) -> None:
    async with fakes(start, 5) as (running, replicas):
        await asyncio.gather(*(running.post(running.chat(user="busy")) for _ in range(80)))
        # Every request once, and repeats within the budget: without one it would be 320. How many
        # it lets through depends on how many are under way, and so on the machine.
        assert 80 <= sum(one.asked for one in replicas) < 300
