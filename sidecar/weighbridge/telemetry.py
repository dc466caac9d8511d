"""Asks every replica how it is: its health page, and its engine's latest iteration."""

import asyncio
import contextlib
import errno
import json
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import aiohttp

from weighbridge.loops import Loops

ProbeResult = Literal["good", "bad", "refused"]

# Of the engine's page: as many records as an engine keeps, and more.
PAGE_BYTES = 8 << 20
RECORD_BYTES = 64 << 10
JITTER = 0.2
BRACES = re.compile(rb"[{}]")


@dataclass(frozen=True, slots=True)
class Pace:
    """How often pages are asked for, all together."""

    interval_seconds: float
    polls_per_second: float
    max_concurrent: int

    def interval(self, endpoints: int) -> float:
        """Between two polls of one endpoint, s."""
        return max(self.interval_seconds, endpoints / self.polls_per_second)


class Poller:
    """Polls a changing set of endpoints for ever: spread in time, and few at once."""

    def __init__(
        self, name: str, poll: Callable[[str], Awaitable[None]], pace: Pace, loops: Loops
    ) -> None:
        self._name = name
        self._loops = loops
        self._poll = poll
        self._pace = pace
        self._room = asyncio.Semaphore(pace.max_concurrent)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._random = random.Random()  # noqa: S311 (spreads polls in time)

    async def follow(self, endpoints: Iterable[str]) -> None:
        """Replaces what is polled."""
        wanted = set(endpoints)
        await self._cancel([endpoint for endpoint in self._tasks if endpoint not in wanted])
        for endpoint in sorted(wanted - set(self._tasks)):
            self._tasks[endpoint] = self._loops.start(self._name, partial(self._for_ever, endpoint))

    async def close(self) -> None:
        """Stops polling."""
        await self._cancel(list(self._tasks))

    async def _cancel(self, endpoints: list[str]) -> None:
        tasks = [self._tasks.pop(endpoint) for endpoint in endpoints]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _for_ever(self, endpoint: str) -> None:
        # The first polls are spread as well, but a few endpoints need not wait.
        await asyncio.sleep(self._random.random() * len(self._tasks) / self._pace.polls_per_second)
        while True:
            async with self._room:
                await self._poll(endpoint)
            interval = self._pace.interval(len(self._tasks))
            await asyncio.sleep(interval * self._random.uniform(1 - JITTER, 1 + JITTER))


def new_session() -> aiohttp.ClientSession:
    """A session whose every request takes a new connection: whether it is taken is the question."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))


async def probe(session: aiohttp.ClientSession, url: str, timeout_seconds: float) -> ProbeResult:
    """Asks for a health page."""
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    try:
        async with session.get(url, timeout=timeout, allow_redirects=False) as response:
            return "good" if response.status == 200 else "bad"
    except aiohttp.ClientConnectorError as error:
        return "refused" if error.os_error.errno == errno.ECONNREFUSED else "bad"
    except (aiohttp.ClientError, TimeoutError, OSError):
        return "bad"


async def engine_look(
    session: aiohttp.ClientSession, url: str, timeout_seconds: float
) -> dict[str, int] | None:
    """What the engine carries, by trtllm-serve's iteration statistics; None where it tells nothing.

    No iteration since the last look means that it carries nothing.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    try:
        async with session.get(url, timeout=timeout, allow_redirects=False) as response:
            if response.status != 200:
                return None
            page = bytearray()
            async for chunk in response.content.iter_any():
                page += chunk
                if len(page) > PAGE_BYTES:
                    return None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    return read_iterations(bytes(page))


def read_iterations(page: bytes) -> dict[str, int] | None:
    """The latest iteration on the page, as the core takes it."""
    if not page.rstrip().endswith(b"]"):
        return None
    if page.strip(b"[] \r\n\t") == b"":
        return {"requests": 0}
    record = last_record(page)
    return None if record is None else look_of(record)


def last_record(page: bytes) -> Mapping[str, Any] | None:
    """The last object of a JSON list, without reading all those before it."""
    tail = page[-RECORD_BYTES:]
    depth = 0
    for brace in reversed(list(BRACES.finditer(tail))):
        depth += 1 if brace.group() == b"}" else -1
        if depth == 0:
            try:
                record = json.loads(tail[brace.start() : tail.rfind(b"}") + 1])
            except ValueError:
                return None
            return record if isinstance(record, dict) else None
    return None


def look_of(record: Mapping[str, Any]) -> dict[str, int] | None:
    """A record's counts; None where they are missing or no counts."""
    cache = record.get("kvCacheStats")
    cache = cache if isinstance(cache, dict) else {}
    active = count(record.get("numActiveRequests"))
    if active is None:
        return None
    # Those that the iteration completed are among the active ones.
    running = max(active - (count(record.get("numCompletedRequests")) or 0), 0)
    look = {"requests": running + (count(record.get("numQueuedRequests")) or 0)}
    used, size = count(cache.get("usedNumBlocks")), count(cache.get("tokensPerBlock"))
    if used is not None and size is not None:
        look["kv_tokens"] = min(used * size, (1 << 63) - 1)
    iteration = count(record.get("iter"))
    if iteration is not None:
        look["iteration"] = iteration
    return look


def count(value: object) -> int | None:
    """A count that fits 63 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        return None
    return value
