"""Watches the replicas' health: what polls and Envoy see goes to the core, which judges it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Protocol

import aiohttp
import orjson

from weighbridge.config.health import Health, Telemetry
from weighbridge.envoy import outliers
from weighbridge.process.loops import Loops, ended
from weighbridge.serve.telemetry import (
    NotSentError,
    Pace,
    Poller,
    UnreadableError,
    engine_look,
    new_session,
    probe,
)

log = logging.getLogger(__name__)

# Looks at Envoy's view that may fail in a row before it counts for nothing.
PATIENCE = 3
# Between two times that the core is told what was seen, s.
TELL_SECONDS = 0.1


class Judge(Protocol):
    """The part of the core that health needs."""

    def hear(self, observations_json: str) -> None:
        """Takes in what was seen of replicas."""

    def judge(self) -> str:
        """Judges them; the changes of state as a JSON list."""


class HealthWatch:
    """Polls a changing set of endpoints, and has the core judge them once a round."""

    def __init__(self, core: Judge, loops: Loops | None = None) -> None:
        self._core = core
        self._kept = loops or Loops()
        self._settings: tuple[Health, Telemetry] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._pollers: list[Poller] = []
        self._loops: list[asyncio.Task[None]] = []
        self._heard: list[Mapping[str, Any]] = []
        self._skipped = Counter({"unsent": 0, "unreadable": 0})
        self._endpoints: frozenset[str] = frozenset()
        # One change at a time: a second that began meanwhile would close the first one's session.
        self._turn = asyncio.Lock()

    async def watch(self, endpoints: Iterable[str], health: Health, telemetry: Telemetry) -> None:
        """Replaces what is watched and how."""
        async with self._turn:
            if (health, telemetry) != self._settings:
                await self._stop()
                self._session = new_session()
                self._start(self._session, health, telemetry)
                self._settings = (health, telemetry)
            self._endpoints = frozenset(endpoints)
            for poller in self._pollers:
                poller.follow(self._endpoints)

    async def close(self) -> None:
        """Stops everything."""
        async with self._turn:
            await self._stop()

    async def _stop(self) -> None:
        loops, self._loops = self._loops, []
        await ended(loops)
        self._heard.clear()
        pollers, self._pollers = self._pollers, []
        for poller in pollers:
            await poller.close()
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._settings = None

    def _start(self, session: aiohttp.ClientSession, health: Health, telemetry: Telemetry) -> None:
        async def poll_health(endpoint: str) -> None:
            url = f"http://{endpoint}{health.path}"
            try:
                result = await probe(session, url, health.timeout_seconds)
            except NotSentError as error:
                self._skip("unsent", url, error)
                return
            self._hear({"endpoint": endpoint, "probe": result})

        async def poll_engine(endpoint: str) -> None:
            url = f"http://{endpoint}{telemetry.path}"
            try:
                look = await engine_look(session, url, telemetry.timeout_seconds)
            except NotSentError as error:
                self._skip("unsent", url, error)
            except UnreadableError as error:
                self._skip("unreadable", url, error)
            else:
                if look is not None:
                    self._hear({"endpoint": endpoint, "engine": look})

        if health.enabled:
            pace = Pace(health.interval_seconds, health.polls_per_second, health.max_concurrent)
            self._pollers.append(Poller("health_polls", poll_health, pace, self._kept))
            if health.envoy_admin is not None:
                look = partial(self._look_at_envoy, session, health.envoy_admin, health)
                self._loops.append(self._kept.start("outliers", look))
        if telemetry.enabled:
            pace = Pace(
                telemetry.interval_seconds, telemetry.polls_per_second, telemetry.max_concurrent
            )
            self._pollers.append(Poller("telemetry_polls", poll_engine, pace, self._kept))
        self._loops.append(self._kept.start("hearing", self._tell_for_ever))
        judge = partial(self._judge_for_ever, health.round_seconds)
        self._loops.append(self._kept.start("health", judge))

    @property
    def skipped(self) -> Mapping[str, int]:
        """Polls that counted for nothing: `unsent` failed on this machine, `unreadable` pages."""
        return dict(self._skipped)

    def _skip(self, why: str, url: str, error: Exception) -> None:
        self._skipped[why] += 1
        log.warning("%s counts for nothing (%s): %s", url, why, error)

    def _hear(self, *observations: Mapping[str, Any]) -> None:
        self._heard += observations

    async def _tell_for_ever(self) -> None:
        """Hands over what was heard together: the core looks at all replicas each time."""
        while True:
            await asyncio.sleep(TELL_SECONDS)
            heard, self._heard = self._heard, []
            if heard:
                await asyncio.to_thread(self._core.hear, orjson.dumps(heard).decode())

    async def _judge_for_ever(self, round_seconds: float) -> None:
        while True:
            await asyncio.sleep(round_seconds)
            # On a thread of its own: a new pool may mean a round of the assigner.
            for change in orjson.loads(await asyncio.to_thread(self._core.judge)):
                level = logging.INFO if change["to"] == "healthy" else logging.WARNING
                log.log(
                    level,
                    "replica %s is %s (was %s): %s, share %.2f",
                    change["endpoint"],
                    change["to"],
                    change["from"],
                    change["cause"],
                    change["share"],
                )

    async def _look_at_envoy(
        self, session: aiohttp.ClientSession, admin: str, health: Health
    ) -> None:
        out: frozenset[str] = frozenset()
        failures = 0
        while True:
            view = await outliers.fetch(session, admin, health.timeout_seconds)
            failures = 0 if view is not None else failures + 1
            if failures == PATIENCE:
                log.warning("Envoy's admin page at %s does not answer", admin)
            if view is not None or failures == PATIENCE:
                now = frozenset(endpoint for endpoint, is_out in (view or {}).items() if is_out)
                # Those that it does not name any more are not out by its word.
                self._hear(
                    *(
                        {"endpoint": endpoint, "outlier": endpoint in now}
                        for endpoint in sorted((out | now) & self._endpoints)
                    )
                )
                out = now
            await asyncio.sleep(health.interval_seconds)
