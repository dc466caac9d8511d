"""Runs the arena: every contestant in turn, round after round, on cold replicas and one trace.

python -m tests.arena.run --peers FOLDER --json out/arena.json
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.arena.contestants import (
    LOOPBACK,
    Contestant,
    Site,
    envoy_policies,
    peer_routers,
    weighbridge,
)
from tests.arena.measure import Figures, Objective, Run, cpu_seconds, figures
from tests.arena.report import table
from weighbridge.envoy import binary
from weighbridge.errors import RefusedError
from weighbridge.ports import find_free_run
from weighbridge.processes import Family
from weighbridge.profiles import load_profile, locate
from weighbridge.stack import DEFAULT_PROFILE, answers
from weighbridge.traces import TraceRequest, find_trace, read_rows, requests_of
from weighbridge.traffic import drive

PROBES = 40
# The conversation trace's output tokens: median 350, p95 698.
ANSWERS = {"output_median": 350.0, "output_sigma": 0.42}
READY_SECONDS = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all contestants share."""

    requests: Sequence[TraceRequest]
    replicas: int
    # How many times faster than real the replicas run, and the trace with them.
    speed: float
    # How many times denser than recorded the requests come.
    rate: float
    rounds: int
    objective: Objective
    seed: int

    @property
    def span_seconds(self) -> float:
        """Of the replicas' own time, from the first request to the last."""
        times = [request.at_seconds for request in self.requests]
        return (max(times) - min(times)) / self.rate


def contestants(peers: Path | None) -> list[Contestant]:
    """All that can be run here."""
    ours = [
        weighbridge("weighbridge", {}, keyed=True),
        weighbridge("weighbridge, no session header", {}, keyed=False),
    ]
    return [*ours, *envoy_policies(), *(peer_routers(peers) if peers else [])]


async def run(setting: Setting, chosen: Sequence[Contestant], say: Say) -> list[Figures]:
    """All rounds. A contestant that fails is reported and left out of that round."""
    rows: list[Figures] = []
    for round_number in range(1, setting.rounds + 1):
        for contestant in chosen:
            start = time.monotonic()
            try:
                row = await one_run(setting, contestant, round_number)
            except RefusedError as error:
                say(f"round {round_number}: {contestant.name}: {error}")
                continue
            rows.append(row)
            say(
                f"round {round_number}: {contestant.name}: SLO {row.slo_attainment:.1%}, "
                f"TTFT p50 {row.ttft_p50_ms:.0f} p99 {row.ttft_p99_ms:.0f} ms, "
                f"cached {row.cache_hit_ratio:.1%}, {time.monotonic() - start:.0f} s"
            )
    return rows


async def one_run(setting: Setting, contestant: Contestant, round_number: int) -> Figures:
    """One contestant on cold replicas."""
    with tempfile.TemporaryDirectory(prefix="arena-") as name:
        directory = Path(name)
        async with Family(directory) as family:
            site = prepare(setting, directory)
            await start_replicas(setting, site, family)
            pids = []
            for part in contestant.parts(site):
                child = await family.start(part.name, part.command, part.environment or None)
                pids.append(child.pid)
            url = f"http://{LOOPBACK}:{site.port}"
            await answers(contestant.ready(site))
            await routable(url, site.model)
            added = await added_p50_ms(url, site)
            before = cpu_seconds(pids)
            outcomes = await drive(
                url,
                site.model,
                setting.requests,
                setting.speed * setting.rate,
                lambda _: None,
                headers=lambda request: session_headers(contestant, request),
            )
            ended = Run(
                contestant=contestant.name,
                round=round_number,
                span_seconds=setting.span_seconds,
                speed=setting.speed,
                objective=setting.objective,
                cpu_seconds=cpu_seconds(pids) - before,
                added_ms=added,
            )
            return figures(ended, outcomes)


def session_headers(contestant: Contestant, request: TraceRequest) -> Mapping[str, str]:
    """The session under each header that the contestant reads."""
    return dict.fromkeys(contestant.session_headers, request.session)


def prepare(setting: Setting, directory: Path) -> Site:
    """Ports and names for one run."""
    first = find_free_run(8 + setting.replicas)
    profile = locate(DEFAULT_PROFILE, Path.cwd()).resolve()
    return Site(
        endpoints=tuple(f"{LOOPBACK}:{first + 8 + index}" for index in range(setting.replicas)),
        port=first,
        admin_port=first + 1,
        more_ports=tuple(range(first + 2, first + 8)),
        model=str(load_profile(profile)["models"][0]),
        profile=str(profile),
        directory=directory,
        envoy=binary.find(),
    )


async def start_replicas(setting: Setting, site: Site, family: Family) -> None:
    """Emulated replicas with nothing cached.

    They draw the length of an answer from its prompt: some routers pass on no header by which it
    could be asked for, and a limit in the body would tell our own what it has to guess.
    """
    file = site.directory / "emulator.yaml"
    file.write_text(yaml.safe_dump(ANSWERS), encoding="utf-8")
    base = site.endpoints[0].rpartition(":")[2]
    command = [
        *(sys.executable, "-m", "weighbridge", "emulate"),
        *("--replicas", str(setting.replicas), "--base-port", base),
        *("--speed", str(setting.speed), "--seed", str(setting.seed)),
        *("--profile", Path(site.profile).stem, "--model", site.model),
        *("--config", str(file)),
    ]
    await family.start("emulate", command)
    for endpoint in site.endpoints:
        await answers(f"http://{endpoint}/health")


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


def versions(chosen: Sequence[Contestant], peers: Path | None) -> dict[str, str]:
    """The version of each product that takes part."""
    found: dict[str, str] = {}
    for contestant in chosen:
        name = contestant.distribution
        if name is None or name in found:
            continue
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = peer_version(name, peers)
    return found


def peer_version(name: str, peers: Path | None) -> str:
    """From the metadata of the peer's own environment."""
    stem = name.replace("-", "_")
    root = peers / name if peers else Path()
    for path in root.glob(f"lib/python*/site-packages/{stem}-*.dist-info"):
        return path.name.removeprefix(f"{stem}-").removesuffix(".dist-info")
    return "unknown"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.arena.run", description=__doc__)
    parser.add_argument("--peers", type=Path, help="folder with an environment for each peer")
    parser.add_argument("--trace", type=Path, help="a trace in Mooncake's form")
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--speed", type=float, default=2.0, help="of the replicas and the trace")
    parser.add_argument("--rate", type=float, default=4.0, help="times the recorded rate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slo-ttft", type=float, default=2000.0, metavar="MS")
    parser.add_argument("--slo-tpot", type=float, default=50.0, metavar="MS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="run those alone whose name holds this text")
    parser.add_argument("--json", type=Path, help="where to write all rows")
    return parser.parse_args()


def main() -> int:
    """The exit code: 0 when every contestant ran in every round."""
    options = arguments()
    trace = find_trace(options.trace, Path(__file__).resolve().parents[2])
    setting = Setting(
        requests=list(islice(requests_of(read_rows(trace)), options.requests)),
        replicas=options.replicas,
        speed=options.speed,
        rate=options.rate,
        rounds=options.rounds,
        objective=Objective(options.slo_ttft, options.slo_tpot),
        seed=options.seed,
    )
    peers = options.peers.absolute() if options.peers else None
    chosen = [each for each in contestants(peers) if (options.only or "") in each.name]
    rows = asyncio.run(run(setting, chosen, lambda text: print(text, flush=True)))
    found = versions(chosen, peers)
    table(rows, found)
    if options.json:
        write(options.json, setting, rows, found)
    return 0 if len(rows) == len(chosen) * setting.rounds else 1


def write(file: Path, setting: Setting, rows: Sequence[Figures], found: dict[str, str]) -> None:
    """All rows, what they were measured on and with."""
    content: dict[str, Any] = {
        "replicas": setting.replicas,
        "requests": len(setting.requests),
        "offered_rps": len(setting.requests) / setting.span_seconds,
        "speed": setting.speed,
        "slo": {"ttft_ms": setting.objective.ttft_ms, "tpot_ms": setting.objective.tpot_ms},
        "versions": found,
        "rows": [row.row() for row in rows],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
