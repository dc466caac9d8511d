"""All parts on one machine: emulated replicas, the sidecar and Envoy, on loopback.

The demo and the end-to-end tests run the same stack, through the commands that users run.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml

from weighbridge.address import HostPort
from weighbridge.config.envoy import BodyMode
from weighbridge.config.file import Config
from weighbridge.config.listen import Transport
from weighbridge.config.profiles import load_profile, locate, write_faster
from weighbridge.envoy import binary
from weighbridge.envoy.bootstrap import render
from weighbridge.errors import RefusedError
from weighbridge.lab.ports import LOOPBACK, find_free_run, require_free
from weighbridge.lab.processes import Child, Family
from weighbridge.net.page import found
from weighbridge.shapes import Decision, Status

T = TypeVar("T")

DEFAULT_PROFILE = "llama-3.1-8b-fp8-h100"
READY_SECONDS = 60.0
PAGE_SECONDS = 30.0
POLL_SECONDS = 0.05
ENVOY_THREADS = 1
DOMAINS = 3


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to run. A port of None: any free one."""

    replicas: int = 6
    transport: Transport = "native"
    body_mode: BodyMode = "buffered"
    speed: float = 10.0
    seed: int = 1
    profile: str = DEFAULT_PROFILE
    listen_port: int | None = None
    base_port: int | None = None
    admin_port: int | None = None
    envoy_admin_port: int | None = None
    envoy: Path | None = None
    # More of the emulator's fields, and of the sidecar's configuration.
    emulator: dict[str, Any] = field(default_factory=dict)
    sidecar: dict[str, Any] = field(default_factory=dict)
    # More of the section `envoy`, which the stack fills with its ports.
    envoy_settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where each part listens, all on loopback."""

    listen: int
    envoy_admin: int
    ext_proc: int
    sidecar_admin: int
    control: int
    replicas: tuple[int, ...]


def choose_ports(options: StackOptions) -> Ports:
    """The ports asked for, checked to be free, and free ones for the rest."""
    single = (options.listen_port, options.admin_port, options.envoy_admin_port)
    asked = [port for port in single if port is not None]
    if options.base_port is not None:
        asked += range(options.base_port, options.base_port + options.replicas)
    if any(port > 65535 for port in asked):
        raise RefusedError(f"{options.replicas} replicas need ports above 65535")
    require_free("cannot start", [HostPort(LOOPBACK, port) for port in asked])
    own = find_free_run(5)
    base = options.base_port or find_free_run(options.replicas, own + 5)
    return Ports(
        listen=options.listen_port or own,
        envoy_admin=options.envoy_admin_port or own + 1,
        ext_proc=own + 2,
        sidecar_admin=options.admin_port or own + 3,
        control=own + 4,
        replicas=tuple(range(base, base + options.replicas)),
    )


class Stack:
    """The parts, started one after the other, each waited for by its own health page."""

    def __init__(self, options: StackOptions, directory: Path, family: Family) -> None:
        self.options = options
        self.envoy_binary = binary.find(options.envoy)
        self.profile = load_profile(locate(options.profile, Path.cwd()))
        self.ports = choose_ports(options)
        self.config_file = directory / "weighbridge.yaml"
        # Their own speed is all that the sidecar may know of emulated replicas.
        self._profile_file = write_faster(
            self.profile, options.speed, directory / f"{self.profile['name']}.yaml"
        )
        self.config = self.write_config(self.config_content())
        self._emulator_file = directory / "emulator.yaml"
        self._envoy_file = directory / "envoy.yaml"
        self._family = family

    @property
    def model(self) -> str:
        """The model's name as requests give it."""
        return str(self.profile["models"][0])

    @property
    def url(self) -> str:
        """Where clients send requests: Envoy."""
        return f"http://{self.config.envoy.listen}"

    @property
    def admin_url(self) -> str:
        """The sidecar's own pages."""
        return f"http://{self.config.admin.address}"

    @property
    def envoy_admin_url(self) -> str:
        """Envoy's admin port."""
        return f"http://{self.config.envoy.admin}"

    @property
    def endpoints(self) -> list[str]:
        """`ip:port` of each replica."""
        return [replica.endpoint for replica in self.config.replicas]

    def config_content(self) -> dict[str, Any]:
        """The sidecar's configuration, as an operator would write it."""
        ports = self.ports
        content: dict[str, Any] = {
            "listen": {
                "address": f"{LOOPBACK}:{ports.ext_proc}",
                "transport": self.options.transport,
            },
            "admin": {"address": f"{LOOPBACK}:{ports.sidecar_admin}"},
            # What sends requests here, tests and the demo, is all there is before Envoy.
            "tenant_header": "x-tenant-id",
            "profiles": [str(self._profile_file)],
            "replicas": [
                {
                    "endpoint": f"{LOOPBACK}:{port}",
                    "profile": self.profile["name"],
                    "domain": f"rack-{index % DOMAINS}",
                }
                for index, port in enumerate(ports.replicas)
            ],
            "envoy": {
                "listen": f"{LOOPBACK}:{ports.listen}",
                "admin": f"{LOOPBACK}:{ports.envoy_admin}",
                "body_mode": self.options.body_mode,
            }
            | self.options.envoy_settings,
        }
        for key, own in self.options.sidecar.items():
            known = content.get(key)
            both = isinstance(known, dict) and isinstance(own, dict)
            content[key] = known | own if both else own
        return content

    def write_config(self, content: dict[str, Any]) -> Config:
        """Replaces the sidecar's configuration file."""
        self.config_file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return Config.model_validate(content)

    async def start(self, on_part: Callable[[str], None] = lambda _: None) -> None:
        """Starts all parts; `on_part` is told each one's name before it starts."""
        on_part(f"{self.options.replicas} emulated replicas")
        await self.start_emulator()
        on_part(f"sidecar ({self.options.transport} transport)")
        await self.start_sidecar()
        on_part("Envoy")
        await self.start_envoy()

    async def start_emulator(self) -> Child:
        """Starts the emulated replicas and waits for each.

        The engine's own profile has the same name as the one that the sidecar weighs by.
        """
        options = self.options
        fields = {"control_port": self.ports.control} | options.emulator
        self._emulator_file.write_text(yaml.safe_dump(fields), encoding="utf-8")
        command = weighbridge(
            "emulate",
            *("--replicas", str(options.replicas), "--base-port", str(self.ports.replicas[0])),
            *("--speed", str(options.speed), "--seed", str(options.seed)),
            *("--profile", self.profile["name"], "--model", self.model),
            *("--config", str(self._emulator_file)),
        )
        child = await self._family.start("emulate", command)
        for endpoint in self.endpoints:
            await self.ready(f"http://{endpoint}/health")
        return child

    async def start_sidecar(self) -> Child:
        """Starts the sidecar and waits until it takes requests."""
        child = await self._family.start("serve", self.serve_command())
        await self.ready(f"{self.admin_url}/readyz")
        return child

    async def start_envoy(self) -> Child:
        """Starts Envoy and waits until it is live: its clusters' first health checks are done."""
        self._envoy_file.write_text(render(self.config), encoding="utf-8")
        command = binary.command(self.envoy_binary, self._envoy_file, ENVOY_THREADS)
        child = await self._family.start("envoy", command)
        await self.ready(f"{self.envoy_admin_url}/ready")
        return child

    def serve_command(self) -> list[str]:
        """The command line of the sidecar."""
        return weighbridge("serve", "--config", str(self.config_file))

    async def ready(self, url: str) -> None:
        """Waits until the page answers 200, or raises RefusedError when a part has died."""
        await self.unless_one_dies(answers(url))

    async def unless_one_dies(self, work: Awaitable[T]) -> T:
        """Waits for the work, or raises RefusedError as soon as a part has died."""
        working = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(self._family.first_death())
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                raise watching.result().obituary()
            return working.result()
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)

    async def status(self) -> Status:
        """The sidecar's status page."""
        page: Status = await fetch(f"{self.admin_url}/status")
        return page

    async def decisions(self, after: int = 0) -> list[Decision]:
        """The decisions that the sidecar keeps, with a number above `after`."""
        found: list[Decision] = []
        while page := await fetch(f"{self.admin_url}/decisions?after={after}"):
            found += page
            after = max(one["number"] for one in page)
        return found


def weighbridge(*arguments: str) -> list[str]:
    """The command line of a part of this package."""
    return [sys.executable, "-m", "weighbridge", *arguments]


async def fetch(url: str) -> Any:
    """A page's JSON."""
    async with aiohttp.ClientSession() as session:
        return await found(session, url, PAGE_SECONDS)


async def answers(url: str) -> None:
    """Asks for a page until it answers 200. RefusedError after READY_SECONDS."""
    deadline = time.monotonic() + READY_SECONDS
    timeout = aiohttp.ClientTimeout(total=2)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(POLL_SECONDS)
    raise RefusedError(f"{url} did not answer 200 within {READY_SECONDS:g} s")
