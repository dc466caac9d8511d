"""Asks every replica how it is: its health page, and its engine's latest iteration."""

import asyncio
import errno
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import aiohttp

from weighbridge.loops import Loops, ended

ProbeResult = Literal["good", "bad", "refused"]

# Of the engine's page: as many records as an engine keeps, and more.
PAGE_BYTES = 8 << 20
RECORD_BYTES = 64 << 10
# Objects within objects; a record has three levels.
MOST_LEVELS = 16
JITTER = 0.2
# Polls that are begun without a pause.
AT_ONCE = 200
# A question that ended later than this after its limit says that this process stood still.
STALL_SHARE = 0.5
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
        for number, endpoint in enumerate(sorted(wanted - set(self._tasks))):
            self._tasks[endpoint] = self._loops.start(self._name, partial(self._for_ever, endpoint))
            if number % AT_ONCE == AT_ONCE - 1:
                # Thousands are begun bit by bit: others have their turn in between.
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Stops polling."""
        await self._cancel(list(self._tasks))

    async def _cancel(self, endpoints: list[str]) -> None:
        await ended([self._tasks.pop(endpoint) for endpoint in endpoints])

    async def _for_ever(self, endpoint: str) -> None:
        # The first polls are spread as well, but a few endpoints need not wait.
        await asyncio.sleep(self._random.random() * len(self._tasks) / self._pace.polls_per_second)
        while True:
            async with self._room:
                await self._poll(endpoint)
            interval = self._pace.interval(len(self._tasks))
            await asyncio.sleep(interval * self._random.uniform(1 - JITTER, 1 + JITTER))


def new_session() -> aiohttp.ClientSession:
    """A session whose every request takes a new connection: whether it is taken is the question.

    Pages come as they are: one that is packed could unpack to any size.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"accept-encoding": "identity"},
        auto_decompress=False,
    )


class NotSentError(Exception):
    """A poll failed on this machine: it says nothing of the replica."""


class UnreadableError(Exception):
    """A replica's page is not what it should be; the message says how."""


# This machine has no descriptor, no memory, no port or no route for a connection.
LOCAL_ERRORS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EACCES,
        errno.EPERM,
    }
)


def is_local(error: BaseException) -> bool:
    """Whether what failed is this machine, not the one that was asked."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return True
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return isinstance(cause, OSError) and cause.errno in LOCAL_ERRORS


class Asking:
    """Judges how one question failed: a process that itself stood still blames nobody."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._latest = time.monotonic() + timeout_seconds * (1 + STALL_SHARE)

    def check(self, error: BaseException) -> None:
        """NotSentError where the failure is this process' own."""
        is_late = isinstance(error, TimeoutError) and time.monotonic() > self._latest
        if is_late or is_local(error):
            raise NotSentError(str(error) or type(error).__name__) from None


async def probe(session: aiohttp.ClientSession, url: str, timeout_seconds: float) -> ProbeResult:
    """Asks for a health page. NotSentError where that failed here."""
    asking = Asking(timeout_seconds)
    try:
        async with session.get(url, timeout=asking.timeout, allow_redirects=False) as response:
            return "good" if response.status == 200 else "bad"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        asking.check(error)
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        is_refused = isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED
        return "refused" if is_refused else "bad"


async def engine_look(
    session: aiohttp.ClientSession, url: str, timeout_seconds: float
) -> dict[str, int] | None:
    """What the engine carries, by trtllm-serve's iteration statistics; None where it tells nothing.

    No iteration since the last look means that it carries nothing. NotSentError where the question
    failed here, UnreadableError where the page is no such list.
    """
    asking = Asking(timeout_seconds)
    try:
        async with session.get(url, timeout=asking.timeout, allow_redirects=False) as response:
            if response.status != 200:
                return None
            tail, size = bytearray(), 0
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > PAGE_BYTES:
                    raise UnreadableError(f"more than {PAGE_BYTES:,} bytes")
                tail += chunk
                # The latest record is at the end; the rest is not kept.
                del tail[:-RECORD_BYTES]
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        asking.check(error)
        return None
    look = read_iterations(bytes(tail))
    if look is None:
        raise UnreadableError("no list of iterations")
    return look


def read_iterations(page: bytes) -> dict[str, int] | None:
    """The latest iteration on the page, or on its end, as the core takes it."""
    page = page.strip()
    if not page.endswith(b"]"):
        return None
    if page.startswith(b"[") and not page[1:-1].strip():
        return {"requests": 0}
    record = last_record(page)
    return None if record is None else look_of(record)


def last_record(page: bytes) -> Mapping[str, Any] | None:
    """The last object of a JSON list, without reading all those before it."""
    tail = page[-RECORD_BYTES:]
    end = tail.rfind(b"}")
    depth = 0
    for brace in reversed(list(BRACES.finditer(tail))):
        depth += 1 if brace.group() == b"}" else -1
        if depth > MOST_LEVELS:
            return None
        if depth == 0:
            try:
                record = json.loads(tail[brace.start() : end + 1])
            except (ValueError, RecursionError):
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
