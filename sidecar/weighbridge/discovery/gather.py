"""Runs all sources side by side; what a source said last stays while it fails."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from weighbridge.address import reached
from weighbridge.discovery.source import Found, Source, SourceError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Standing:
    """How a source stands."""

    # None until it has told its first list.
    found: tuple[Found, ...] | None = None
    failures: int = 0
    # Why it fails now; None while it does not.
    error: str | None = None


class Gathering:
    """The lists of all sources, as they are now."""

    def __init__(
        self,
        sources: Sequence[Source],
        retry_seconds: float,
        profiles: frozenset[str],
        on_change: Callable[[], None],
    ) -> None:
        self._sources = sources
        self._retry_seconds = retry_seconds
        self._profiles = profiles
        self._on_change = on_change
        self._standings = {source.name: Standing() for source in sources}

    @property
    def standings(self) -> Mapping[str, Standing]:
        """How each source stands, by its name."""
        return self._standings

    @property
    def is_complete(self) -> bool:
        """Whether every source has told a list."""
        return all(one.found is not None for one in self._standings.values())

    def found(self) -> tuple[Found, ...]:
        """All replicas. Of an endpoint in two sources the first source counts."""
        union: dict[str, Found] = {}
        for standing in self._standings.values():
            for one in standing.found or ():
                union.setdefault(reached(one.replica.endpoint), one)
        return tuple(union.values())

    def inherit(self, before: "Gathering") -> None:
        """Knows what another knew of the same sources: their last lists stay until they tell."""
        for name, standing in before.standings.items():
            if name in self._standings:
                self._standings[name] = standing

    async def run(self) -> None:
        """Follows the sources until cancelled."""
        async with asyncio.TaskGroup() as group:
            for source in self._sources:
                group.create_task(self._follow(source))

    async def _follow(self, source: Source) -> None:
        standing = self._standings[source.name]
        while True:
            try:
                async with aclosing(source.lists()) as lists:
                    async for found in lists:
                        self._take(source.name, standing, found)
                # It has told all that it ever will.
                return
            except SourceError as error:
                self._failed(source.name, standing, str(error), None)
            except Exception as error:
                # What a source is told may be anything; the others are not to suffer from it.
                text = f"{type(error).__name__}: {error}"
                self._failed(source.name, standing, text, error)
            await asyncio.sleep(self._retry_seconds)

    def _failed(self, name: str, standing: Standing, why: str, trace: Exception | None) -> None:
        standing.failures += 1
        # Said once, not each time that it fails in the same way.
        if standing.error != why:
            kept = "nothing known" if standing.found is None else "the last list stays"
            log.error("discovery: %s: %s (%s)", name, why, kept, exc_info=trace)
        standing.error = why

    def _take(self, name: str, standing: Standing, found: tuple[Found, ...]) -> None:
        for one in found:
            if one.replica.profile not in self._profiles:
                raise SourceError(
                    f"{one.replica.endpoint}: no profile is called '{one.replica.profile}'"
                )
        if standing.error is not None:
            log.info("discovery: %s tells its list again", name)
            standing.error = None
        if found != standing.found:
            log.info("discovery: %s: %d replicas", name, len(found))
            standing.found = found
            self._on_change()
