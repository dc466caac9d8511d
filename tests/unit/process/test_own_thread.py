"""What runs on a thread of its own goes on whatever the loop that asked for it is at."""

import asyncio
import json
import threading
from http.client import HTTPConnection

import pytest

from tests.unit.admin.test_admin import PROFILE
from weighbridge._core import Core
from weighbridge.admin.server import AdminServer
from weighbridge.admin.status import snapshot
from weighbridge.config.file import Config
from weighbridge.envoy.runtime import View
from weighbridge.lab.ports import LOOPBACK, find_free_run
from weighbridge.process.own_thread import OwnThread


def status_of(address: str, page: str) -> int:
    """Asks without a loop."""
    client = HTTPConnection(address, timeout=20)
    try:
        client.request("GET", page)
        return client.getresponse().status
    finally:
        client.close()


async def test_pages_answer_while_the_other_loop_stands_still() -> None:
    core = Core(json.dumps({"profiles": [PROFILE]}))
    alive = True
    server = AdminServer(
        core,
        lambda: True,
        lambda: snapshot(core, Config(), View()),
        is_alive=lambda: alive,
    )
    address = f"{LOOPBACK}:{find_free_run(1)}"
    async with OwnThread("pages") as pages:
        await pages.run(server.start(address))
        # Nothing is awaited here: this loop does not turn.
        for page in ("/healthz", "/readyz", "/status", "/metrics"):
            assert status_of(address, page) == 200
        alive = False
        assert status_of(address, "/healthz") == 503
        await pages.run(server.stop())


async def test_what_is_raised_there_is_raised_here() -> None:
    async def fails() -> None:
        raise ValueError(threading.current_thread().name)

    async with OwnThread("apart") as apart:
        with pytest.raises(ValueError, match="apart"):
            await apart.run(fails())


async def test_what_is_cancelled_here_is_cancelled_there() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def waits() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with OwnThread("apart") as apart:
        task = asyncio.create_task(apart.run(waits()))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        assert await asyncio.to_thread(ended.wait, 20)


async def test_what_still_runs_ends_with_the_thread() -> None:
    ended = threading.Event()

    async def waits() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with OwnThread("apart") as apart:
        task = asyncio.create_task(apart.run(waits()))
        await apart.run(asyncio.sleep(0))
    assert ended.is_set()
    with pytest.raises(asyncio.CancelledError):
        await task
