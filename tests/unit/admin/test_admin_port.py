"""The admin port: a bounded number of connections, and certificates that can change at once."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from weighbridge.address import HostPort
from weighbridge.admin.port import AdminPort
from weighbridge.lab.ports import find_free_run

ASK = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@asynccontextmanager
async def listening(
    tls: ssl.SSLContext | None = None, most: int = 8, silent_seconds: float = 60.0
) -> AsyncIterator[tuple[AdminPort, int]]:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text="here")

    server, number = web.Server(answer), find_free_run(1)
    port = AdminPort(server, most, silent_seconds)
    await port.listen(HostPort("127.0.0.1", number), tls)
    try:
        yield port, number
    finally:
        port.close()
        await server.shutdown(0.1)


async def answered(number: int, tls: ssl.SSLContext | None = None) -> bool:
    name = "admin.test" if tls else None
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", number, ssl=tls, server_hostname=name
        )
        writer.write(ASK)
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    except (ssl.SSLError, OSError):
        return False
    return line.startswith(b"HTTP/1.1 200")


async def test_silent_connections_keep_nobody_out() -> None:
    async with listening(most=8) as (port, number):
        silent = [await asyncio.open_connection("127.0.0.1", number) for _ in range(50)]
        assert await answered(number)
        assert port.connections <= 8
        reader, _ = silent[0]
        assert await asyncio.wait_for(reader.read(), 5) == b"", "the first had to make room"
        for _, writer in silent:
            writer.close()
        async with asyncio.timeout(5):
            while port.connections > 1:
                await asyncio.sleep(0.01)


async def test_half_asked_questions_keep_nobody_out() -> None:
    async with listening(most=8) as (port, number):
        kept = []
        for _ in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(b"GET /")
            kept.append((reader, writer))
        assert await answered(number)
        assert port.connections <= 8
        for _, writer in kept:
            writer.close()


async def test_a_connection_that_asks_nothing_is_closed() -> None:
    async with listening(silent_seconds=0.05) as (port, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert port.connections == 0


async def test_other_certificates_are_shown_without_a_pause(tmp_path: Path) -> None:
    authorities = [trustme.CA() for _ in range(2)]
    servers, clients = [], []
    for authority in authorities:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        client = ssl.create_default_context()
        authority.issue_cert("admin.test").configure_cert(server)
        authority.configure_trust(client)
        servers.append(server)
        clients.append(client)
    async with listening(servers[0]) as (port, number):
        assert await answered(number, clients[0])
        assert not await answered(number, clients[1])
        for turn in range(20):
            now = turn % 2
            asking = [asyncio.create_task(answered(number, clients[now])) for _ in range(3)]
            await port.show(servers[now])
            assert await answered(number, clients[now])
            assert not await answered(number, clients[1 - now])
            await asyncio.wait(asking)


async def test_an_address_that_is_taken_is_refused() -> None:
    async with listening() as (_, number):
        with pytest.raises(OSError, match="in use"):
            await AdminPort(web.Server(lambda _: web.Response())).listen(  # type: ignore[arg-type,return-value]
                HostPort("127.0.0.1", number), None
            )
