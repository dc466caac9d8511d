"""The replicas as the sidecar and Envoy know them, kept up to date from the sources."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weighbridge._core import Core
from weighbridge.config.file import Config
from weighbridge.config.fleet import Replica, ReplicaState
from weighbridge.discovery.gather import Gathering
from weighbridge.discovery.membership import Membership, Pace
from weighbridge.discovery.source import Found
from weighbridge.discovery.sources import sources
from weighbridge.net.tls import Certificates
from weighbridge.process.loops import Loops

if TYPE_CHECKING:
    from weighbridge.xds.server import AdsServer

log = logging.getLogger(__name__)

# How often members are moved on while any is on its way, s.
STEP_SECONDS = 0.1
# How often a share that grows is told the core, s.
SHARE_SECONDS = 1.0
# Between two steps at least so many times what the last one took, and no more than this, s.
LEISURE = 4.0
LONGEST_PAUSE_SECONDS = 3.0


class Fleet:
    """Follows the sources, moves members on, and says when the core needs to know."""

    def __init__(
        self,
        config: Config,
        base: Path,
        core: Core,
        profiles: frozenset[str],
        on_change: Callable[[], Awaitable[None]],
        *,
        loops: Loops,
    ) -> None:
        self._base = base
        self._loops = loops
        self._core = core
        self._profiles = profiles
        self._on_change = on_change
        self._settings = (config.replicas, config.discovery)
        self._membership = Membership(pace(config))
        self._woken = asyncio.Event()
        self._gathering = self._gather(config)
        self._following: asyncio.Task[None] | None = None
        self._ads: AdsServer | None = None
        self._told: list[Replica] | None = None
        self._shares_at = 0.0
        # Every source has told a list once: who comes from now on is new.
        self._started = False
        # The configuration's own list is there before anything is asked.
        listed = [Found(replica) for replica in config.replicas]
        self._membership.want(listed, now(), at_start=True)

    def steered(self) -> list[tuple[Replica, ReplicaState]]:
        """Whom the core may choose, with the state as sources see it and the share as it is now."""
        return self._membership.steered(now())

    def profiles(self) -> Mapping[str, str]:
        """The profile of each member. From any thread."""
        members = self._membership.members.values()
        return {one.found.replica.endpoint: one.found.replica.profile for one in members}

    def endpoints(self) -> list[str]:
        """All members, also those that nothing is steered to yet or any more."""
        return list(self._membership.members)

    @property
    def has_any(self) -> bool:
        """Whether there is any replica to steer to."""
        return self._membership.has_any

    @property
    def is_known(self) -> bool:
        """Whether the replicas are known: every source has told a list, or one has told any."""
        return self._gathering.is_complete or self.has_any

    async def start(self, config: Config, certificates: Certificates | None = None) -> None:
        """Begins to follow the sources, and to serve the list where that is configured."""
        address = config.discovery.ads.address
        if address is not None:
            # Envoy's message types are half of what the sidecar would load, and few serve lists.
            from weighbridge.xds.server import AdsServer  # noqa: PLC0415

            self._ads = await AdsServer(config.health.path, certificates).start(address)
        self._follow()

    def set_certificates(self, certificates: Certificates) -> None:
        """Shows these to Envoys that ask for the list from now on."""
        if self._ads is not None:
            self._ads.set_certificates(certificates)

    def prepared(self, config: Config) -> Gathering | None:
        """What `configure` will follow; None where no source changes. Nothing is changed yet."""
        if (config.replicas, config.discovery) == self._settings:
            return None
        return self._gather(config, self._gathering)

    async def configure(self, config: Config, gathering: Gathering) -> None:
        """Follows other sources; members that these find stay."""
        self._settings = (config.replicas, config.discovery)
        self._membership.pace = pace(config)
        await self._unfollow()
        self._gathering = gathering
        self._woken.set()
        self._follow()

    async def close(self) -> None:
        """Stops following and serving."""
        await self._unfollow()
        if self._ads is not None:
            await self._ads.stop()

    async def run(self) -> None:
        """Moves members on until cancelled."""
        spent = 0.0
        while True:
            moving = self._membership.is_moving
            # Thousands of members take a while: most of the time is others'.
            pause = min(max(STEP_SECONDS, spent * LEISURE), LONGEST_PAUSE_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), pause if moving else None)
            began = now()
            await self._step(self._woken.is_set())
            spent = now() - began

    def report(self) -> dict[str, Any]:
        """How sources, members and Envoys stand, for status and metrics."""
        stages: dict[str, int] = {}
        for member in self._membership.members.values():
            stages[member.stage.value] = stages.get(member.stage.value, 0) + 1
        sessions = [] if self._ads is None else self._ads.sessions
        return {
            "sources": [
                {
                    "source": name,
                    "replicas": None if one.found is None else len(one.found),
                    "failures": one.failures,
                    "error": one.error,
                }
                for name, one in self._gathering.standings.items()
            ],
            "members": stages,
            "envoys": [
                {
                    "node": one.node,
                    "taken": one.taken,
                    "refusals": one.refusals,
                    "refusal": one.refusal,
                }
                for one in sessions
            ],
        }

    def _gather(self, config: Config, before: Gathering | None = None) -> Gathering:
        made = Gathering(
            sources(config, self._base),
            config.discovery.retry_seconds,
            self._profiles,
            self._woken.set,
        )
        if before is not None:
            made.inherit(before)
        return made

    def _follow(self) -> None:
        self._following = self._loops.start("discovery", self._gathering.run)

    async def _unfollow(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
            self._following = None

    async def _step(self, relisted: bool) -> None:
        at = now()
        changed = False
        if relisted:
            self._membership.want(self._gathering.found(), at, at_start=not self._started)
            self._woken.clear()
            changed = True
        if self._gathering.is_complete:
            self._started = True
        taken = frozenset[str]() if self._ads is None else self._ads.taken()
        is_leaving = self._membership.is_leaving
        in_flight = await asyncio.to_thread(self._core.in_flight) if is_leaving else {}
        changed |= self._membership.step(at, in_flight, taken)
        # The core before Envoy: who is dropped from Envoy is not steered to any more.
        if changed or at - self._shares_at >= SHARE_SECONDS:
            self._shares_at = at
            await self._on_change()
        if self._ads is not None and (changed or self._told is None):
            told = self._membership.told()
            if told != self._told:
                self._told = told
                await self._ads.tell(told)


def pace(config: Config) -> Pace:
    """How replicas come and go."""
    settings = config.discovery
    return Pace(
        drain_seconds=settings.drain_seconds,
        warm_up_seconds=settings.warm_up_seconds,
        patience_seconds=None if settings.ads.address is None else settings.ads.patience_seconds,
    )


def now() -> float:
    """The loop's clock, s."""
    return time.monotonic()
