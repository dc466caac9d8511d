"""Asks every replica how it is: its health page, and its engine's latest iteration."""

import asyncio
import errno
import heapq
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import orjson

from weighbridge.process.loops import Loops, ended

ProbeResult = Literal["good", "bad", "refused"]

# Of the engine's page: as many records as an engine keeps, and more.
PAGE_BYTES = 8 << 20
RECORD_BYTES = 64 << 10
# A record has some ten.
MOST_OBJECTS = 256
JITTER = 0.2
# A question that ended later than this after its limit says that this process stood still.
STALL_SHARE = 0.5


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
    """Polls a changing set of endpoints for ever: spread in time, and few at once.

    An endpoint that is not being asked is a line in a list: thousands of tasks would be as many
    objects for the interpreter to walk each time that it looks for garbage.
    """

    def __init__(
        self, name: str, poll: Callable[[str], Awaitable[None]], pace: Pace, loops: Loops
    ) -> None:
        self._name = name
        self._loops = loops
        self._poll = poll
        self._pace = pace
        self._room = asyncio.Semaphore(pace.max_concurrent)
        # When each endpoint is to be asked, or was, if it is being asked now; s, monotonic.
        self._turns: dict[str, float] = {}
        # The same, the next first; what is no endpoint's turn any more is passed over.
        self._queue: list[tuple[float, str]] = []
        self._is_earlier = asyncio.Event()
        self._polls: set[asyncio.Task[None]] = set()
        self._runs: asyncio.Task[None] | None = None
        self._random = random.Random()  # noqa: S311 (spreads polls in time)

    def follow(self, endpoints: Iterable[str]) -> None:
        """Replaces what is polled."""
        if self._runs is None:
            self._runs = self._loops.start(self._name, self._for_ever)
        wanted = set(endpoints)
        for gone in self._turns.keys() - wanted:
            del self._turns[gone]
        new = wanted - self._turns.keys()
        # The first polls are spread as well, but a few endpoints need not wait.
        spread = len(wanted) / self._pace.polls_per_second
        for endpoint in new:
            self._take_turn(endpoint, self._random.random() * spread)

    async def close(self) -> None:
        """Stops polling."""
        runs = [] if self._runs is None else [self._runs]
        self._turns.clear()
        await ended([*runs, *self._polls])

    def _take_turn(self, endpoint: str, seconds: float) -> None:
        due = time.monotonic() + seconds
        self._turns[endpoint] = due
        heapq.heappush(self._queue, (due, endpoint))
        if self._queue[0] == (due, endpoint):
            self._is_earlier.set()

    async def _for_ever(self) -> None:
        while True:
            await self._room.acquire()
            due, endpoint = await self._next()
            task = asyncio.create_task(self._ask(endpoint, due), name=self._name)
            self._polls.add(task)
            task.add_done_callback(self._polls.discard)

    async def _next(self) -> tuple[float, str]:
        """The next endpoint, once it is its turn."""
        while True:
            self._is_earlier.clear()
            while self._queue and self._turns.get(self._queue[0][1]) != self._queue[0][0]:
                heapq.heappop(self._queue)
            pause = self._queue[0][0] - time.monotonic() if self._queue else None
            if pause is not None and pause <= 0:
                return heapq.heappop(self._queue)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_earlier.wait(), pause)

    async def _ask(self, endpoint: str, due: float) -> None:
        try:
            await self._poll(endpoint)
        except Exception:
            self._loops.broke(self._name)
        finally:
            self._room.release()
            # One that has left, or has come back since, is not asked again because of this.
            if self._turns.get(endpoint) == due:
                interval = self._pace.interval(len(self._turns))
                self._take_turn(endpoint, interval * self._random.uniform(1 - JITTER, 1 + JITTER))


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
    start = len(tail)
    end = tail.rfind(b"}") + 1
    # The objects within it, and braces in its texts, are no JSON up to that end.
    for _ in range(MOST_OBJECTS):
        start = tail.rfind(b"{", 0, start)
        if start < 0:
            return None
        with suppress(orjson.JSONDecodeError):
            record: dict[str, Any] = orjson.loads(tail[start:end])
            return record
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
