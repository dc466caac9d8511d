"""The sidecar's process: core, transport, admin pages and health watch, from start to drain."""

import asyncio
import gc
import json
import logging
import resource
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from weighbridge import __version__
from weighbridge._core import Core, CoreError
from weighbridge.admin import access, capacity
from weighbridge.admin.port import MOST_CONNECTIONS
from weighbridge.admin.server import AdminServer
from weighbridge.admin.status import snapshot
from weighbridge.config.core import admission, build, health, placing, replica_settings, settings
from weighbridge.config.file import Config
from weighbridge.config.profiles import load_profiles
from weighbridge.config.reading import load
from weighbridge.config.tuning import tuned
from weighbridge.discovery.checks import check_lists, check_sources
from weighbridge.discovery.fleet import Fleet
from weighbridge.envoy.runtime import Overrides, RuntimeWatch
from weighbridge.errors import ConfigError, RefusedError
from weighbridge.net import tls
from weighbridge.process import logs, watch
from weighbridge.process.loops import Loops, ended
from weighbridge.process.own_thread import OwnThread
from weighbridge.process.watch import changes
from weighbridge.serve import transports
from weighbridge.serve.drift import DriftWatch, Known
from weighbridge.serve.health import HealthWatch
from weighbridge.serve.reloads import Reloads
from weighbridge.serve.usage import UsageWriter
from weighbridge.shapes import Status

if TYPE_CHECKING:
    from weighbridge.serve.tracing import SpanSender

log = logging.getLogger(__name__)

FILE_INTERVAL_SECONDS = 1.0
MOST_DESCRIPTORS = 1 << 20
# Envoys' connections, sources of replicas, logs and the process itself.
OTHER_DESCRIPTORS = 256
# How often this loop says that it runs, and after what silence /healthz says that it does not, s.
BEAT_SECONDS = 1.0
STALLED_SECONDS = 60.0
# What a running sidecar cannot change: its sockets, and what its core was made with.
FIXED_SECTIONS = ("listen", "admin", "metrics", "usage_log", "tracing")
CHANGEABLE_SETTINGS = ("placing", "admission", "health")


class Service:
    """One sidecar, from its configuration file."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._config = load(source)
        self._settings = settings(self._config, source)
        self._core = build(self._config, source)
        check_sources(self._config, self._profile_names(), source)
        self._certificates = certificates(self._config, source)
        self._access = access.load(self._config.admin, source)
        self._reloads = Reloads.of(self._config)
        self._drift = DriftWatch(self._profiles)
        self._sender = sender(self._config, self._core, source)
        self._loops = Loops()
        self._health = HealthWatch(self._core, self._loops)
        # Pages answer and polls go on whatever the other loops are at, and neither holds up these.
        self._pages, self._polls = OwnThread("weighbridge-pages"), OwnThread("weighbridge-polls")
        self._beat_at = time.monotonic()
        self._runtime = RuntimeWatch(lambda: self._config, self._tune)
        self._fleet = Fleet(
            self._config,
            source.parent,
            self._core,
            self._profile_names(),
            self._on_fleet,
            loops=self._loops,
        )
        self._fleet_changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._ready = False

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains."""
        config = self._config
        logs.configure(config.log.level, config.log.format)
        take_descriptors(config)
        # What is there from the start stays: looking it through for garbage holds up everything.
        gc.collect()
        gc.freeze()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        async with AsyncExitStack() as stack:
            admin = AdminServer(
                self._core,
                lambda: self._ready and self._fleet.has_any,
                self._snapshot,
                self._access,
                self._settings["profiles"],
                notes=self._notes,
                is_alive=self._is_alive,
            )
            pages = await stack.enter_async_context(self._pages)
            polls = await stack.enter_async_context(self._polls)
            await pages.run(admin.start(config.admin.address, config.metrics.address))
            stack.push_async_callback(lambda: pages.run(admin.stop()))
            transport = await transports.start(self._core, config.listen, self._certificates)
            for name, paths, take in (
                ("certificates", tls_files(config, self._source), partial(self._show, transport)),
                (
                    "admin access",
                    access.files(config.admin, self._source),
                    partial(self._admit, admin),
                ),
            ):
                if paths:
                    follow = partial(watch.follow, name, paths, FILE_INTERVAL_SECONDS, take)
                    stack.callback(self._loops.start(name.replace(" ", "_"), follow).cancel)
            stack.push_async_callback(lambda: polls.run(self._health.close()))
            stack.push_async_callback(self._fleet.close)
            await self._fleet.start(config, self._certificates)
            await self._watch_health()
            for name, work in (
                ("beat", self._beat),
                ("file", self._follow_file),
                ("reload", self._reload_when_wanted),
                ("assigner", self._assign),
                ("promises", self._watch_promises),
                ("runtime", self._runtime.run),
                ("membership", self._fleet.run),
                ("fleet", partial(self._follow_fleet, transport)),
            ):
                stack.callback(self._loops.start(name, work).cancel)
            if self._sender is not None:
                stack.push_async_callback(ended, [self._loops.start("spans", self._sender.run)])
            writer = UsageWriter(
                self._core, config.usage_log, self._drift.note, self._loops, self._source.parent
            )
            stack.push_async_callback(ended, [self._loops.start("usage_log", writer.run)])
            if config.usage_log.path is not None:
                stack.callback(self._loops.start("drift", self._drift.run).cancel)
                if not self._drift.is_possible:
                    log.info("profiles' drift is not measured: install weighbridge[calibrate]")
            log.info(
                "weighbridge %s serves ext_proc on %s (%s), admin on %s, %d replicas",
                __version__,
                config.listen.address,
                config.listen.transport,
                config.admin.address,
                len(self._fleet.steered()),
            )
            await self._stop.wait()
            log.info("draining, at most %g s", self._config.drain_seconds)
            await self._set_ready(transport, False)
            clean = await transport.stop(self._config.drain_seconds)
            log.info("stopped" if clean else "stopped; open streams were cut off")

    async def _show(self, transport: transports.Transport) -> None:
        found = certificates(self._config, self._source)
        if found is not None:
            transport.set_certificates(found)
            self._fleet.set_certificates(found)

    async def _admit(self, admin: AdminServer) -> None:
        found = access.load(self._config.admin, self._source)
        self._access.token, self._access.tls = found.token, found.tls
        await self._pages.run(admin.show_certificates())

    async def _set_ready(self, transport: transports.Transport, ready: bool) -> None:
        self._ready = ready
        await transport.set_ready(ready)

    def _profiles(self) -> Known:
        profiles = {profile["name"]: profile for profile in self._settings["profiles"]}
        return profiles, self._fleet.profiles()

    def _profile_names(self) -> frozenset[str]:
        return frozenset(profile["name"] for profile in self._settings["profiles"])

    def _push_replicas(self) -> None:
        """Takes a while where there are thousands. Of the members nothing changes meanwhile."""
        steered = self._fleet.steered()
        # What a source says against a replica stands; else its health is the core's to judge.
        states = {replica.endpoint: state for replica, state in steered}
        replicas = replica_settings(tuple(replica for replica, _ in steered), states)
        try:
            self._core.set_replicas(orjson.dumps(replicas).decode())
        except CoreError as error:
            log.error("the replicas stay as they were: %s", error)

    async def _on_fleet(self) -> None:
        await asyncio.to_thread(self._push_replicas)
        self._fleet_changed.set()

    async def _follow_fleet(self, transport: transports.Transport) -> None:
        while True:
            # Ready once it knows where to send requests.
            if self._fleet.is_known and not self._ready and not self._stop.is_set():
                await self._set_ready(transport, True)
            await self._watch_health()
            await self._fleet_changed.wait()
            self._fleet_changed.clear()

    async def _watch_health(self) -> None:
        config, endpoints = self._config, self._fleet.endpoints()
        await self._polls.run(self._health.watch(endpoints, config.health, config.telemetry))

    async def _beat(self) -> None:
        while True:
            self._beat_at = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    def _is_alive(self) -> bool:
        return time.monotonic() - self._beat_at < STALLED_SECONDS

    async def _assign(self) -> None:
        while True:
            await asyncio.sleep(self._effective().placing.round_seconds)
            # On a thread of its own: a round over many slices must not hold up the admin pages.
            await asyncio.to_thread(self._core.assign)

    async def _watch_promises(self) -> None:
        watch = capacity.PromiseWatch()
        while True:
            # An empty list is not known yet, or told elsewhere.
            if self._fleet.has_any:
                status = await asyncio.to_thread(self._snapshot)
                watch.look(capacity.capacities(status))
            await asyncio.sleep(capacity.INTERVAL_SECONDS)

    async def _follow_file(self) -> None:
        async for _ in changes(self._source, FILE_INTERVAL_SECONDS):
            self._reload_wanted.set()

    async def _reload_when_wanted(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            await self._reload()

    def _effective(self) -> Config:
        """The file's configuration, with what Envoy's runtime overrides."""
        return tuned(self._config, self._runtime.view.overrides)

    def _tune(self, overrides: Overrides) -> None:
        try:
            self._set(tuned(self._config, overrides))
        except CoreError as error:
            log.error("runtime: %s", error)

    def _notes(self) -> list[str]:
        notes = []
        if not self._fleet.has_any:
            notes.append("no replica is known: see discovery in /status")
        if self._reloads.refused is not None:
            notes.append("the configuration file was refused: see config in /status")
        return notes

    def _snapshot(self) -> Status:
        status = snapshot(self._core, self._config, self._runtime.view)
        spans = self._sender.report() if self._sender else {"sent": 0, "failed": 0}
        told: Status = {
            **status,
            "drift": self._drift.report(),
            "discovery": self._fleet.report(),
            "spans": spans,
            "loops": self._loops.failures,
            "config": self._reloads.report(),
            "polls": self._health.skipped,
        }
        return told

    def _set(self, config: Config) -> None:
        self._core.set_placing(json.dumps(placing(config.placing)))
        self._core.set_admission(json.dumps(admission(config.admission)))
        self._core.set_observe_only(config.observe_only)

    async def _reload(self) -> None:
        try:
            # On a thread of its own: a long list takes a while to read and to check.
            config = await asyncio.to_thread(self._read)
            if config == self._config:
                self._reloads.cleared()
                return
            gathering = self._fleet.prepared(config)
            self._take(config)
        except (RefusedError, CoreError) as error:
            log.error("not reloaded: %s", error)
            self._reloads.refuse(str(error))
            return
        except Exception as error:
            self._reloads.refuse(f"{type(error).__name__}: {error}")
            raise
        self._reloads.taken(config)
        logs.configure(config.log.level, config.log.format)
        if gathering is not None:
            await self._fleet.configure(config, gathering)
        # The loop that follows the fleet takes over how it is watched: one task, not two.
        self._fleet_changed.set()
        log.info("reloaded %s: %d replicas", self._source, len(config.replicas))

    def _read(self) -> Config:
        """The file as it is now, checked in all that can be checked before it is in force."""
        watch.require_regular(self._source)
        config = load(self._source)
        if config != self._config:
            self._check_changeable(config)
            # The replicas' own values are checked by a core that is thrown away.
            build(config, self._source)
            check_sources(config, self._profile_names(), self._source)
        return config

    def _take(self, config: Config) -> None:
        """Puts all of it in force, or nothing."""
        before = self._config
        try:
            self._set_all(config)
        except Exception:
            self._set_all(before)
            raise
        self._config = config

    def _set_all(self, config: Config) -> None:
        self._set(tuned(config, self._runtime.view.overrides))
        self._core.set_health(json.dumps(health(config.health, config.telemetry)))

    def _check_changeable(self, config: Config) -> None:
        before = self._config
        changed = [key for key in FIXED_SECTIONS if getattr(config, key) != getattr(before, key)]
        if config.discovery.ads != before.discovery.ads:
            changed.append("discovery.ads")
        changed += [
            key
            for key, value in settings(config, self._source).items()
            if key not in CHANGEABLE_SETTINGS and value != self._settings[key]
        ]
        if changed:
            found = (f"{self._source}: {key}: needs a restart to change" for key in changed)
            raise ConfigError(*found)


def certificates(config: Config, source: Path) -> tls.Certificates | None:
    """The ext_proc port's certificates, if it has any. ConfigError when they cannot be used."""
    return tls.read(config.listen.tls, source) if config.listen.tls else None


def tls_files(config: Config, source: Path) -> list[Path]:
    """The files of the ext_proc port's certificates."""
    return tls.files(config.listen.tls, source) if config.listen.tls else []


def sender(config: Config, core: Core, source: Path) -> "SpanSender | None":
    """What sends spans, where they are wanted. ConfigError when its packages are missing."""
    collector = config.tracing.collector
    if collector is None:
        return None
    try:
        module = import_module("weighbridge.serve.tracing")
    except ImportError:
        raise ConfigError(
            f"{source}: tracing.collector: install weighbridge[otel] to trace"
        ) from None
    made: SpanSender = module.SpanSender(core, collector, config.tracing)
    return made


def check(source: Path) -> None:
    """Checks a configuration as `run` would, without listening. ConfigError tells all mistakes."""
    config = load(source)
    wrong: list[str] = []

    def attempt(work: Callable[[], object]) -> bool:
        try:
            work()
        except ConfigError as error:
            wrong.extend(error.problems)
            return False
        return True

    names: set[str] = set()

    def read_profiles() -> None:
        names.update(one["name"] for one in load_profiles(config.profiles, source.parent, source))

    # What names a profile can be judged only by the names of all.
    if attempt(read_profiles):
        attempt(lambda: sender(config, build(config, source), source))
        attempt(lambda: check_sources(config, names, source))
        attempt(lambda: check_lists(config, names, source))
    attempt(lambda: access.load(config.admin, source))
    attempt(lambda: certificates(config, source))
    if wrong:
        raise ConfigError(*wrong)


def run(source: Path) -> None:
    """Runs a sidecar until it is told to stop. RefusedError when it cannot start."""

    async def main() -> None:
        try:
            service = Service(source)
        except ConfigError:
            # There may be more than what it met first.
            check(source)
            raise
        await service.run()

    asyncio.run(main())


def take_descriptors(config: Config) -> None:
    """Raises the limit of descriptors to the highest allowed, and warns where that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        # The system's own limit may be lower than what this process is allowed.
        except (OSError, ValueError) as error:
            log.warning("the limit of descriptors stays at %d: %s", soft, error)
    needed = descriptors(config)
    if soft != resource.RLIM_INFINITY and soft < needed:
        log.warning(
            "%d descriptors are too few: up to %d may be in use at once, and then polls and "
            "connections fail; raise the limit (`ulimit -n`, LimitNOFILE)",
            soft,
            needed,
        )


def descriptors(config: Config) -> int:
    """The most that may be in use at once: polls, pages, and what serves."""
    health, telemetry = config.health, config.telemetry
    polls = [one.max_concurrent for one in (health, telemetry) if one.enabled]
    return sum(polls) + MOST_CONNECTIONS + OTHER_DESCRIPTORS
