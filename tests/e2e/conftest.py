"""Fixtures: a real Envoy, the sidecar and emulated replicas, and proof that all is cleared up."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.harness import Running, Starter
from weighbridge.config.listen import Transport
from weighbridge.lab.processes import Family
from weighbridge.lab.stack import Stack, StackOptions

TRANSPORTS: tuple[Transport, ...] = ("native", "grpcio")


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Transport:
    """Every end-to-end test runs on both transports."""
    chosen: Transport = request.param
    return chosen


@pytest.fixture
def start(tmp_path: Path, transport: Transport) -> Starter:
    """Starts a stack; at its end nothing may be in flight and no process may be left."""

    @asynccontextmanager
    async def run(settled: bool = True, **options: Any) -> AsyncIterator[Running]:
        chosen = StackOptions(**({"transport": transport, "speed": 50.0} | options))
        async with Family(tmp_path) as family:
            stack = Stack(chosen, tmp_path, family)
            await stack.start()
            timeout = aiohttp.ClientTimeout(total=60)
            async with aiohttp.ClientSession(stack.url, timeout=timeout) as client:
                running = Running(stack, family, client)
                yield running
                if settled:
                    await running.settled()
            sessions = family.sessions()
        left = [pid for pid in processes() if session_of(pid) in sessions]
        assert not left, f"processes left behind: {left}"

    return run


@pytest.fixture
async def running(start: Starter) -> AsyncIterator[Running]:
    """A stack with the defaults."""
    async with start() as stack:
        yield stack


def processes() -> list[int]:
    """All processes that live."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def session_of(pid: int) -> int | None:
    """The session of a process; None where it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[3])
