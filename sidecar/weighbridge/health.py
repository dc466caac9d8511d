"""Watches the replicas' health by asking each for its health page; ejects and brings back."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import aiohttp

from weighbridge.config import Health, ReplicaState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one replica: its state, and how many probes in a row contradict it."""

    state: ReplicaState = "healthy"
    contradictions: int = 0

    def after(self, healthy: bool, failures: int, successes: int) -> "Verdict":
        """The verdict after one more probe."""
        if healthy == (self.state == "healthy"):
            return Verdict(self.state)
        contradictions = self.contradictions + 1
        if contradictions < (successes if healthy else failures):
            return Verdict(self.state, contradictions)
        return Verdict("healthy" if healthy else "ejected")


class HealthWatch:
    """Probes a changing set of endpoints and reports every change of state."""

    def __init__(self, settings: Health, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self._on_change = on_change
        self._verdicts: dict[str, Verdict] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    def states(self) -> Mapping[str, ReplicaState]:
        """The state of each watched endpoint."""
        return {endpoint: verdict.state for endpoint, verdict in self._verdicts.items()}

    async def watch(self, endpoints: Iterable[str], settings: Health) -> None:
        """Replaces what is watched; endpoints that stay keep their state."""
        wanted = set(endpoints) if settings.enabled else set()
        restart = settings != self._settings
        self._settings = settings
        gone = [endpoint for endpoint in self._probes if restart or endpoint not in wanted]
        await self._cancel(gone)
        for endpoint in set(self._verdicts) - wanted:
            del self._verdicts[endpoint]
        for endpoint in sorted(wanted - set(self._probes)):
            self._verdicts.setdefault(endpoint, Verdict())
            self._probes[endpoint] = asyncio.create_task(self._probe_for_ever(endpoint))

    async def close(self) -> None:
        """Stops all probes."""
        await self._cancel(list(self._probes))
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _cancel(self, endpoints: list[str]) -> None:
        tasks = [self._probes.pop(endpoint) for endpoint in endpoints]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _probe_for_ever(self, endpoint: str) -> None:
        while True:
            before = self._verdicts[endpoint]
            healthy = await self._probe(endpoint)
            after = before.after(healthy, self._settings.failures, self._settings.successes)
            self._verdicts[endpoint] = after
            if after.state != before.state:
                log.warning("replica %s is %s (was %s)", endpoint, after.state, before.state)
                self._on_change()
            await asyncio.sleep(self._settings.interval_seconds)

    async def _probe(self, endpoint: str) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_seconds)
        url = f"http://{endpoint}{self._settings.path}"
        try:
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
