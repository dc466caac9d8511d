"""One run of one contestant: replicas and router started, traffic sent, figures taken."""

import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml

from tests.arena.clients import Lateness, drive_closed
from tests.arena.contestants import LOOPBACK, Contestant, Site
from tests.arena.measure import Figures, Run, Tokens, cpu_seconds, figures, machine_ticks, own_cpu
from tests.arena.setting import Setting, kill_of
from weighbridge.config.profiles import load_profile, locate, write_faster
from weighbridge.envoy import binary
from weighbridge.errors import RefusedError
from weighbridge.lab.ports import find_free_run
from weighbridge.lab.processes import Family
from weighbridge.lab.stack import answers
from weighbridge.lab.traces import TraceRequest
from weighbridge.lab.traffic import Outcome, drive

PROBES = 40
READY_SECONDS = 30.0
# The time to the first token that a batch asks for, as in the simulator, in the replicas' time.
PATIENT_MS = 3_600_000
# Ports of one contestant, before those of the replicas.
OWN_PORTS = 8


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that is over. `sent`: where clients decided, when each request was sent, s."""

    figures: Figures
    outcomes: Sequence[Outcome]
    sent: Mapping[int, float]


async def one_run(
    setting: Setting,
    requests: Sequence[TraceRequest],
    contestant: Contestant,
    round_number: int,
) -> Ended:
    """One contestant on cold replicas."""
    with tempfile.TemporaryDirectory(prefix="arena-") as name:
        directory = Path(name)
        async with Family(directory) as family:
            site = prepare(setting, directory)
            await start_replicas(setting, site, family)
            counted = []
            for part in contestant.parts(site):
                child = await family.start(part.name, part.command, part.environment or None)
                counted += [child.pid] if part.counted else []
                if part.ready is not None:
                    await answers(part.ready)
            url = f"http://{LOOPBACK}:{site.port}"
            for page in contestant.ready(site):
                await answers(page)
            await routable(url, site.model)
            added = await added_p50_ms(url, site)
            warm = [await tokens_by_replica(site)]
            cpu, own, (used, ticks) = cpu_seconds(counted), own_cpu(), machine_ticks()
            start = time.monotonic()
            async with befalling(setting, site, warm), Lateness() as lateness:
                outcomes, sent = await traffic(setting, requests, contestant, url, site.model)
            took = time.monotonic() - start
            cpu, own = cpu_seconds(counted) - cpu, own_cpu() - own
            used_after, ticks_after = machine_ticks()
            measured = {one.number for one in requests if one.at_seconds >= setting.warm_seconds}
            if not measured:
                raise RefusedError("no request comes after the warm-up")
            tokens = await tokens_by_replica(site)
            ended = Run(
                contestant=contestant.name,
                round=round_number,
                time_scale=setting.time_scale,
                span_seconds=span_seconds(setting, requests, took),
                speed=setting.speed,
                objective=setting.objective,
                cpu_seconds=cpu,
                added_ms=added,
                machine_busy=(used_after - used) / max(1, ticks_after - ticks),
                driver_busy=own / took,
                driver_late_ms=lateness.late_ms,
                kinds={one.number: one.kind for one in requests if one.kind != "chat"},
                # A replica that crashed counts from nothing.
                tokens=[
                    Tokens(
                        max(0, after.prompt - before.prompt), max(0, after.cached - before.cached)
                    )
                    for before, after in zip(warm[-1], tokens, strict=True)
                ],
            )
            rated = [one for one in outcomes if one.number in measured]
            return Ended(figures(ended, rated), outcomes, sent)


def span_seconds(setting: Setting, requests: Sequence[TraceRequest], took: float) -> float:
    """How long the measured requests came for, in the replicas' own time."""
    if setting.clients:
        return took * setting.speed
    return requests[-1].at_seconds - max(requests[0].at_seconds, setting.warm_seconds)


async def traffic(
    setting: Setting,
    requests: Sequence[TraceRequest],
    contestant: Contestant,
    url: str,
    model: str,
) -> tuple[list[Outcome], Mapping[int, float]]:
    """Sends all requests, at their times or as clients become free."""

    def headers(request: TraceRequest) -> Mapping[str, str]:
        return headers_of(setting, contestant, request)

    if setting.clients:
        return await drive_closed(url, model, requests, setting.clients, headers)
    outcomes = await drive(url, model, requests, setting.speed, lambda _: None, headers=headers)
    return outcomes, {}


@contextlib.asynccontextmanager
async def befalling(setting: Setting, site: Site, warm: list[list[Tokens]]) -> AsyncIterator[None]:
    """Kills replicas while it is open, and restarts the count of tokens when the warm-up ends."""

    async def at(seconds: float) -> None:
        await asyncio.sleep(seconds / setting.speed)

    async def measure() -> None:
        await at(setting.warm_seconds)
        warm.append(await tokens_by_replica(site))

    async def kill(text: str, chance: random.Random) -> None:
        told = kill_of(text)
        await at(told.at_seconds)
        fault = {"kind": "crash", "for_ms": round(1000 * told.for_seconds / setting.speed)}
        async with aiohttp.ClientSession() as session:
            for replica in chance.sample(range(setting.replicas), told.count):
                url = f"http://{LOOPBACK}:{control_port(site)}/replicas/{replica}/fault"
                async with session.post(url, json=fault) as response:
                    response.raise_for_status()

    chance = random.Random(setting.seed)
    tasks = [asyncio.create_task(kill(text, chance)) for text in setting.kills]
    if setting.warm_seconds > 0:
        tasks.append(asyncio.create_task(measure()))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        # What went wrong with one that had run is told.
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


def headers_of(setting: Setting, contestant: Contestant, request: TraceRequest) -> dict[str, str]:
    """The session under each header that the contestant reads; a batch says that it has time."""
    found = dict.fromkeys(contestant.session_headers, request.session)
    if request.kind == "batch":
        found["x-slo-ttft-ms"] = f"{PATIENT_MS / setting.speed:.0f}"
    return found


def prepare(setting: Setting, directory: Path) -> Site:
    """Ports and names for one run."""
    first = find_free_run(OWN_PORTS + setting.replicas)
    base = first + OWN_PORTS
    files: list[str] = []
    profiles = []
    for name, count in setting.fleets:
        file = locate(name, Path.cwd()).resolve()
        profile = load_profile(file)
        profiles.append(profile)
        files += [str(write_faster(profile, setting.speed, directory / file.name))] * count
    models = {str(profile["models"][0]) for profile in profiles}
    if len(models) > 1:
        raise RefusedError(f"--profile: of several models: {', '.join(sorted(models))}")
    return Site(
        endpoints=tuple(f"{LOOPBACK}:{base + index}" for index in range(setting.replicas)),
        port=first,
        admin_port=first + 1,
        more_ports=tuple(range(first + 2, base)),
        model=models.pop(),
        profiles=tuple(files),
        kv_tokens=min(int(profile["kv_tokens"]) for profile in profiles),
        speed=setting.speed,
        directory=directory,
        envoy=binary.find(),
    )


def control_port(site: Site) -> int:
    """Where the emulator tells what its replicas have done."""
    return site.more_ports[-1]


async def start_replicas(setting: Setting, site: Site, family: Family) -> None:
    """Emulated replicas with nothing cached.

    They take fields that they do not know, since SGLang's router adds some.
    """
    file = site.directory / "emulator.yaml"
    content = {
        "profiles": [Path(file).stem for file in site.profiles],
        "control_port": control_port(site),
        "strict_fields": False,
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    base = site.endpoints[0].rpartition(":")[2]
    command = [
        *(sys.executable, "-m", "weighbridge", "emulate"),
        *("--replicas", str(setting.replicas), "--base-port", base),
        *("--speed", str(setting.speed), "--seed", str(setting.seed)),
        *("--model", site.model),
        *("--config", str(file)),
    ]
    await family.start("emulate", command)
    for endpoint in site.endpoints:
        await answers(f"http://{endpoint}/health")


async def tokens_by_replica(site: Site) -> list[Tokens]:
    """As the replicas have counted since their start."""
    url = f"http://{LOOPBACK}:{control_port(site)}/replicas"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        counters = [replica["counters"] for replica in await response.json()]
    return [Tokens(each["prompt_tokens"], each["cached_tokens"]) for each in counters]


async def routable(url: str, model: str) -> None:
    """Waits until a request reaches a replica: routers learn of their workers in their own time."""
    deadline = time.monotonic() + READY_SECONDS
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                if response.status == 200:
                    return
                words = (await response.text())[:200]
            if time.monotonic() > deadline:
                raise RefusedError(f"no replica could be reached: {response.status} {words}")
            await asyncio.sleep(0.1)


async def added_p50_ms(url: str, site: Site) -> float:
    """What the router adds to one small request at a time, against a replica asked directly."""
    through = await ask_repeatedly(url, site.model)
    return through - await ask_repeatedly(f"http://{site.endpoints[0]}", site.model)


async def ask_repeatedly(url: str, model: str) -> float:
    """Median ms of a request for one token, one at a time."""
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}
    taken = []
    async with aiohttp.ClientSession() as session:
        for _ in range(PROBES):
            start = time.monotonic()
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                await response.read()
            taken.append(1000 * (time.monotonic() - start))
    return statistics.median(taken)
