"""Follows Envoy's runtime: polls its admin port for the keys of `tuning` and tells what changed.

While Envoy does not answer, what it last said holds: losing the admin port changes nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from weighbridge.config.file import Config
from weighbridge.config.tuning import BY_NAME, PREFIX, RuntimeKey, configured, parse
from weighbridge.envoy import admin
from weighbridge.envoy.outliers import mapping

log = logging.getLogger(__name__)

Overrides = Mapping[RuntimeKey, Any]


@dataclass(slots=True)
class View:
    """What was last seen of Envoy's runtime."""

    reachable: bool | None = None
    overrides: dict[RuntimeKey, Any] = field(default_factory=dict)
    # What is wrong with keys that are ignored, by full name.
    ignored: dict[str, str] = field(default_factory=dict)


def read(entries: Mapping[str, Any]) -> tuple[dict[RuntimeKey, Any], dict[str, str]]:
    """The overrides among the entries of Envoy's `/runtime`, and what is wrong with others."""
    overrides: dict[RuntimeKey, Any] = {}
    ignored: dict[str, str] = {}
    for name, entry in entries.items():
        if not name.startswith(PREFIX):
            continue
        text = str(entry.get("final_value", "")) if isinstance(entry, dict) else ""
        # `/runtime_modify?key=` takes a key back.
        if not text:
            continue
        key = BY_NAME.get(name.removeprefix(PREFIX))
        if key is None:
            ignored[name] = "unknown key"
            continue
        try:
            overrides[key] = parse(key, text)
        except ValueError as error:
            ignored[name] = f"'{text}': {error}"
    return overrides, ignored


class RuntimeWatch:
    """Polls, and calls back with the overrides whenever they have changed."""

    def __init__(
        self, config: Callable[[], Config], on_change: Callable[[Overrides], None]
    ) -> None:
        self._config = config
        self._on_change = on_change
        self.view = View()

    async def run(self) -> None:
        """Polls until cancelled."""
        async with admin.session() as session:
            while True:
                settings = self._config().runtime
                if settings.enabled:
                    await self._look(session)
                await asyncio.sleep(settings.interval_seconds)

    async def _look(self, session: aiohttp.ClientSession) -> None:
        address = self._config().runtime_address
        try:
            content = await admin.page(session, address, "/runtime")
        except admin.EnvoyAdminError as error:
            self._lost(error)
            return
        overrides, ignored = read(mapping(content.get("entries")))
        if not self.view.reachable:
            log.info("runtime: Envoy's admin port %s answers", address)
        self.view.reachable = True
        for name, wrong in ignored.items():
            if self.view.ignored.get(name) != wrong:
                log.warning("runtime: %s: %s; ignored", name, wrong)
        self.view.ignored = ignored
        if overrides != self.view.overrides:
            self._tell(overrides)
            self.view.overrides = overrides
            self._on_change(overrides)

    def _lost(self, error: admin.EnvoyAdminError) -> None:
        if self.view.reachable is not False:
            log.info("runtime: Envoy's admin port does not answer: %s", error)
        self.view.reachable = False

    def _tell(self, overrides: Overrides) -> None:
        before = self.view.overrides
        for key in sorted({*before, *overrides}, key=lambda key: key.name):
            if key not in overrides:
                value = configured(self._config(), key)
                log.info("runtime: %s is %s again, as configured", key.full_name, value)
            elif before.get(key) != overrides[key]:
                log.info("runtime: %s is %s", key.full_name, overrides[key])
