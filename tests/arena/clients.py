"""Clients in a closed loop, and how late the driver itself is."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import aiohttp

from weighbridge.lab.traces import TraceRequest
from weighbridge.lab.traffic import REQUEST_SECONDS, Headers, Outcome, send

TICK_SECONDS = 0.02


class Lateness:
    """How much later than it wished the event loop came back, ms of real time."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.late_ms.append(1000 * max(0.0, time.monotonic() - due))


def sessions_of(requests: Sequence[TraceRequest]) -> list[list[TraceRequest]]:
    """The requests by session, in the order of their first ones."""
    found: dict[str, list[TraceRequest]] = {}
    for request in requests:
        found.setdefault(request.session, []).append(request)
    return list(found.values())


async def drive_closed(
    url: str,
    model: str,
    requests: Sequence[TraceRequest],
    clients: int,
    headers: Headers,
) -> tuple[list[Outcome], Mapping[int, float]]:
    """Each client takes a session, sends its turns one after the other, and takes the next.

    Answers what became of the requests, in their order, and when each was sent, s.
    """
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    waiting = deque(sessions_of(requests))
    outcomes: dict[int, Outcome] = {}
    sent: dict[int, float] = {}
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        start = time.monotonic()

        async def client() -> None:
            while waiting:
                for request in waiting.popleft():
                    sent[request.number] = time.monotonic() - start
                    outcomes[request.number] = await send(session, model, request, headers(request))

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
    return [outcomes[request.number] for request in requests], sent
