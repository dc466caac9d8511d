"""The demo: emulated replicas, the sidecar and Envoy on loopback, and real-shaped traffic."""

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from weighbridge.address import HostPort
from weighbridge.config import Config, Transport
from weighbridge.envoy import binary
from weighbridge.envoy.bootstrap import render
from weighbridge.errors import RefusedError
from weighbridge.ports import LOOPBACK, find_free_run, require_free
from weighbridge.processes import Family
from weighbridge.profiles import load_profile, locate
from weighbridge.report import show, summary
from weighbridge.traces import find_trace, read_rows, requests_of
from weighbridge.traffic import Outcome, drive

T = TypeVar("T")

READY_SECONDS = 60.0
POLL_SECONDS = 0.05
ENVOY_THREADS = 1


@dataclass(frozen=True, slots=True)
class Options:
    """What `weighbridge up` was asked for. A port of None: any free one."""

    replicas: int = 6
    requests: int = 300
    transport: Transport = "native"
    speed: float = 10.0
    seed: int = 1
    profile: str = "llama-3.1-8b-fp8-h100"
    trace: Path | None = None
    base_port: int | None = None
    listen_port: int | None = None
    envoy: Path | None = None
    exit_when_done: bool = False
    json_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """Where each part listens, all on loopback."""

    listen: int
    envoy_admin: int
    ext_proc: int
    sidecar_admin: int
    replicas: tuple[int, ...]


async def run(options: Options, console: Console) -> int:
    """Runs the demo; the exit code. RefusedError when a part is missing, taken or dead."""
    main = asyncio.current_task()
    assert main is not None  # noqa: S101 (a coroutine runs in a task)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, main.cancel)
    envoy = binary.find(options.envoy)
    profile = load_profile(locate(options.profile, Path.cwd()))
    ports = choose_ports(options)
    with tempfile.TemporaryDirectory(prefix="weighbridge-up-") as name:
        directory = Path(name)
        config_file, config = write_config(directory, options, ports, profile)
        envoy_file = directory / "envoy.yaml"
        envoy_file.write_text(render(config), encoding="utf-8")
        async with Family(directory) as family:
            with steps(console) as step:
                step(f"{options.replicas} emulated replicas")
                await start_emulator(family, options, ports, profile)
                step(f"sidecar ({options.transport} transport)")
                await start_sidecar(family, config_file, config)
                step("Envoy")
                await start_envoy(family, envoy, envoy_file, config)
            result = await unless_one_dies(family, exercise(options, config, profile, console))
            report(result, options, console)
            if not options.exit_when_done:
                await stay(family, config, profile, console)
    return 0 if result["ok"] == result["requests"] else 1


def choose_ports(options: Options) -> Ports:
    """The ports asked for, checked to be free, and free ones for the rest."""
    asked = [] if options.listen_port is None else [options.listen_port]
    if options.base_port is not None:
        asked += range(options.base_port, options.base_port + options.replicas)
    if any(not 0 < port < 65536 for port in asked):
        raise RefusedError("ports must be from 1 to 65535")
    require_free("cannot start", [HostPort(LOOPBACK, port) for port in asked])
    own = find_free_run(4)
    base = options.base_port or find_free_run(options.replicas, own + 4)
    return Ports(
        listen=options.listen_port or own,
        envoy_admin=own + 1,
        ext_proc=own + 2,
        sidecar_admin=own + 3,
        replicas=tuple(range(base, base + options.replicas)),
    )


def write_config(
    directory: Path, options: Options, ports: Ports, profile: dict[str, Any]
) -> tuple[Path, Config]:
    """The sidecar's configuration file, as an operator would write it."""
    content: dict[str, Any] = {
        "listen": {"address": f"{LOOPBACK}:{ports.ext_proc}", "transport": options.transport},
        "admin": {"address": f"{LOOPBACK}:{ports.sidecar_admin}"},
        "profiles": [str(locate(options.profile, Path.cwd()))],
        "replicas": [
            {
                "endpoint": f"{LOOPBACK}:{port}",
                "profile": profile["name"],
                "domain": f"rack-{index % 3}",
            }
            for index, port in enumerate(ports.replicas)
        ],
        "decision_log": max(1024, options.requests),
        "envoy": {
            "listen": f"{LOOPBACK}:{ports.listen}",
            "admin": f"{LOOPBACK}:{ports.envoy_admin}",
        },
    }
    path = directory / "weighbridge.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path, Config.model_validate(content)


async def start_emulator(
    family: Family, options: Options, ports: Ports, profile: dict[str, Any]
) -> None:
    """Starts the emulated replicas and waits for each one's health page.

    The engine's own profile has the same name as the one that the sidecar weighs by.
    """
    arguments = ["--replicas", str(options.replicas), "--base-port", str(ports.replicas[0])]
    arguments += ["--speed", str(options.speed), "--seed", str(options.seed)]
    arguments += ["--profile", profile["name"], "--model", model_of(profile)]
    await family.start("emulate", weighbridge("emulate", *arguments))
    for port in ports.replicas:
        await ready(family, f"http://{LOOPBACK}:{port}/health")


async def start_sidecar(family: Family, config_file: Path, config: Config) -> None:
    """Starts the sidecar and waits until it takes requests."""
    await family.start("serve", weighbridge("serve", "--config", str(config_file)))
    await ready(family, f"http://{config.admin.address}/readyz")


async def start_envoy(family: Family, envoy: Path, file: Path, config: Config) -> None:
    """Starts Envoy and waits until it is live, its clusters' first health checks done."""
    await family.start("envoy", binary.command(envoy, file, ENVOY_THREADS))
    await ready(family, f"http://{config.envoy.admin}/ready")


def weighbridge(*arguments: str) -> list[str]:
    """The command line of another part of this package."""
    return [sys.executable, "-m", "weighbridge", *arguments]


async def ready(family: Family, url: str) -> None:
    """Waits until the page answers 200."""
    await unless_one_dies(family, answers(url))


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


async def unless_one_dies(family: Family, work: Awaitable[T]) -> T:
    """Waits for the work, or raises RefusedError as soon as a child has died."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(family.first_death())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            raise watching.result().obituary()
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def exercise(
    options: Options, config: Config, profile: dict[str, Any], console: Console
) -> dict[str, Any]:
    """Sends the traffic through Envoy and sums up what came of it."""
    trace = find_trace(options.trace, checkout())
    requests = list(islice(requests_of(read_rows(trace)), options.requests))
    if len(requests) < options.requests:
        raise RefusedError(f"{trace} holds {len(requests)} requests, not {options.requests}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"requests of {trace.name}", total=len(requests))

        def on_done(_: Outcome) -> None:
            progress.advance(bar)

        outcomes = await drive(
            f"http://{config.envoy.listen}", model_of(profile), requests, options.speed, on_done
        )
    async with aiohttp.ClientSession(f"http://{config.admin.address}") as session:
        status = await (await session.get("/status")).json()
        decisions = await (await session.get("/decisions")).json()
    endpoints = [replica.endpoint for replica in config.replicas]
    return summary(endpoints, outcomes, status, decisions)


def model_of(profile: dict[str, Any]) -> str:
    """The model's name as requests give it."""
    return str(profile["models"][0])


def report(result: dict[str, Any], options: Options, console: Console) -> None:
    """Shows the run, and writes it where asked."""
    show(result, options.speed, console)
    if options.json_file is None:
        return
    text = json.dumps(result, indent=2) + "\n"
    if str(options.json_file) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        options.json_file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"{options.json_file}: {error.strerror}") from None


async def stay(family: Family, config: Config, profile: dict[str, Any], console: Console) -> None:
    """Says where to send requests, and waits for Ctrl-C."""
    url = f"http://{config.envoy.listen}/v1/chat/completions"
    body = json.dumps(
        {"model": model_of(profile), "messages": [{"role": "user", "content": "Hello"}]}
    )
    console.print(f"\nSend requests to http://{config.envoy.listen}, for example:", markup=False)
    # Unwrapped, so that it can be copied whole.
    console.print(
        f"  curl -s {url} -H 'content-type: application/json' -d '{body}'",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"Status: http://{config.admin.address}/status  Envoy: http://{config.envoy.admin}\n"
        "Ctrl-C stops everything.",
        markup=False,
    )
    try:
        await unless_one_dies(family, asyncio.Event().wait())
    except asyncio.CancelledError:
        console.print("stopping", markup=False)


def checkout() -> Path | None:
    """The repository this package runs from, if it does."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "Makefile").is_file() and (root / "Cargo.toml").is_file() else None


class Step:
    """Prints each step as it begins, and how long the one before it took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._name = ""
        self._start = 0.0

    def __call__(self, name: str) -> None:
        self.finish()
        self._name, self._start = name, time.monotonic()

    def finish(self) -> None:
        """Says that the present step is done."""
        if self._name:
            took = time.monotonic() - self._start
            self._console.print(f"ready in {took:4.1f} s: {self._name}", markup=False)
        self._name = ""


@contextmanager
def steps(console: Console) -> Iterator[Step]:
    """Progress of the start, a line for each part that is ready."""
    step = Step(console)
    yield step
    step.finish()
