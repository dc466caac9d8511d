"""How far live traffic is from the replicas' profiles: `calibrate --check`, as requests end."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from weighbridge.errors import RefusedError

if TYPE_CHECKING:
    from weighbridge.calibrate import drift as checking

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
# Requests that a profile is held against, the latest, and how old they may be, s.
MOST_REQUESTS = 10_000
OLDEST_SECONDS = 3600.0
# All requests of a replica are needed to know its batches: at high rates only some are watched.
MOST_REPLICAS = 8

Record = Mapping[str, Any]
# Profiles by name, and the profile's name of each endpoint.
Known = tuple[Mapping[str, dict[str, Any]], Mapping[str, str]]


class DriftWatch:
    """Keeps the latest usage of some replicas of each profile, and what it says of the profile."""

    def __init__(self, known: Callable[[], Known]) -> None:
        self._known = known
        self._entries: dict[str, deque[checking.Entry]] = {}
        self._findings: dict[str, dict[str, Any]] = {}
        self._checking = _optional()

    @property
    def is_possible(self) -> bool:
        """Whether the packages of `weighbridge[calibrate]` are there."""
        return self._checking is not None

    def note(self, records: Iterable[Record]) -> None:
        """Takes usage records as they are written down. From any one thread."""
        if self._checking is None:
            return
        _, profile_of = self._known()
        watched = _watched(profile_of)
        for record in records:
            name = watched.get(record["replica"])
            entry = None if name is None else self._checking.entry_of(dict(record))
            if name is not None and entry is not None:
                self._entries.setdefault(name, deque(maxlen=MOST_REQUESTS)).append(entry)

    def report(self) -> dict[str, dict[str, Any]]:
        """The latest finding of each profile, as `calibrate --check --json` has it."""
        return dict(self._findings)

    async def run(self) -> None:
        """Checks until cancelled."""
        while self.is_possible:
            await asyncio.sleep(INTERVAL_SECONDS)
            await asyncio.to_thread(self.check)

    def check(self) -> None:
        """Holds each profile against what its replicas served lately."""
        if self._checking is None:
            return
        profiles, _ = self._known()
        findings = {}
        for name, kept in list(self._entries.items()):
            entries = list(kept)
            newest = entries[-1].time if entries else 0.0
            fresh = [one for one in entries if one.time >= newest - OLDEST_SECONDS]
            if name not in profiles or not fresh:
                continue
            try:
                findings[name] = self._checking.check(profiles[name], fresh).json()
            except RefusedError as error:
                log.debug("drift: %s", error)
        self._tell(findings)
        self._findings = findings

    def _tell(self, findings: Mapping[str, Mapping[str, Any]]) -> None:
        for name, finding in findings.items():
            before = self._findings.get(name, {}).get("recalibrate", False)
            if finding["recalibrate"] and not before:
                log.warning("profile %s: %s", name, finding["verdict"])


def _watched(profile_of: Mapping[str, str]) -> dict[str, str]:
    """The first replicas of each profile, with its name."""
    counts: dict[str, int] = {}
    watched = {}
    for endpoint, name in profile_of.items():
        counts[name] = counts.get(name, 0) + 1
        if counts[name] <= MOST_REPLICAS:
            watched[endpoint] = name
    return watched


def _optional() -> Any:
    """The check itself, which needs numpy and scipy; None where they are missing."""
    try:
        checking = import_module("weighbridge.calibrate.drift")
    except ImportError:
        return None
    return checking if find_spec("scipy") else None
