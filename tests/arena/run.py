"""Runs the arena: every contestant in turn, round after round, on cold replicas and one trace.

python -m tests.arena.run --peers FOLDER --json out/arena.json
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp
import yaml

from tests.arena import results
from tests.arena.contestants import (
    LOOPBACK,
    Contestant,
    Site,
    envoy_policies,
    weighbridge,
)
from tests.arena.measure import Figures, Run, Tokens, cpu_seconds, figures, machine_ticks
from tests.arena.peers import peer_routers
from tests.arena.report import table
from tests.arena.setting import Objective, Setting, requests_in, write_workload
from weighbridge.envoy import binary
from weighbridge.errors import RefusedError
from weighbridge.ports import find_free_run
from weighbridge.processes import Family
from weighbridge.profiles import load_profile, locate, write_faster
from weighbridge.stack import answers
from weighbridge.traces import TraceRequest, shipped_trace
from weighbridge.traffic import Outcome, drive

PROFILE = "llama-3.1-70b-fp8-h100x4"
ROOT = Path(__file__).resolve().parents[2]
PROBES = 40
READY_SECONDS = 30.0
# Ports of one contestant, before those of the replicas.
OWN_PORTS = 8
# Seconds of a run besides those of the trace: starting, probing, last answers, stopping.
AROUND_SECONDS = 8.0

Say = Callable[[str], None]


def contestants(peers: Path | None) -> list[Contestant]:
    """All that can be run here."""
    ours = [
        weighbridge("weighbridge", {}, keyed=True),
        weighbridge("weighbridge without header", {}, keyed=False),
    ]
    return [*ours, *envoy_policies(), *(peer_routers(peers) if peers else [])]


async def run(
    setting: Setting, chosen: Sequence[Contestant], found: results.Results, say: Say
) -> None:
    """All rounds. A contestant that fails is reported and left out of that round."""
    requests = requests_in(setting)
    found.begin(requests)
    for round_number in range(1, setting.rounds + 1):
        # Each round begins with another, so that none always comes after the same one.
        first = (round_number - 1) * len(chosen) // setting.rounds
        for contestant in [*chosen[first:], *chosen[:first]]:
            start = time.monotonic()
            try:
                row, outcomes = await one_run(setting, requests, contestant, round_number)
            except (RefusedError, aiohttp.ClientError, OSError, TimeoutError) as error:
                text = f"round {round_number}: {contestant.name}: {type(error).__name__}: {error}"
                found.failed(text)
                say(text)
                continue
            found.add(row, outcomes)
            say(
                f"round {round_number}: {contestant.name}: SLO {row.slo_attainment:.1%}, "
                f"TTFT p50 {row.ttft_p50_ms:.0f} p99 {row.ttft_p99_ms:.0f} ms, "
                f"cached {row.cache_hit_ratio:.1%}, failed {row.failed}, "
                f"machine {row.machine_busy:.0%} busy, {time.monotonic() - start:.0f} s"
            )


async def one_run(
    setting: Setting,
    requests: Sequence[TraceRequest],
    contestant: Contestant,
    round_number: int,
) -> tuple[Figures, list[Outcome]]:
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
            await answers(contestant.ready(site))
            await routable(url, site.model)
            added = await added_p50_ms(url, site)
            tokens = await tokens_by_replica(site)
            cpu, (used, ticks) = cpu_seconds(counted), machine_ticks()
            outcomes = await drive(
                url,
                site.model,
                requests,
                setting.speed,
                lambda _: None,
                headers=lambda request: session_headers(contestant, request),
            )
            cpu, (used_after, ticks_after) = cpu_seconds(counted) - cpu, machine_ticks()
            ended = Run(
                contestant=contestant.name,
                round=round_number,
                span_seconds=requests[-1].at_seconds - requests[0].at_seconds,
                speed=setting.speed,
                objective=setting.objective,
                cpu_seconds=cpu,
                added_ms=added,
                machine_busy=(used_after - used) / max(1, ticks_after - ticks),
                tokens=[
                    Tokens(after.prompt - before.prompt, after.cached - before.cached)
                    for before, after in zip(tokens, await tokens_by_replica(site), strict=True)
                ],
            )
            return figures(ended, outcomes), outcomes


def session_headers(contestant: Contestant, request: TraceRequest) -> Mapping[str, str]:
    """The session under each header that the contestant reads."""
    return dict.fromkeys(contestant.session_headers, request.session)


def prepare(setting: Setting, directory: Path) -> Site:
    """Ports and names for one run."""
    first = find_free_run(OWN_PORTS + setting.replicas)
    file = locate(setting.profile, Path.cwd()).resolve()
    profile = load_profile(file)
    base = first + OWN_PORTS
    return Site(
        endpoints=tuple(f"{LOOPBACK}:{base + index}" for index in range(setting.replicas)),
        port=first,
        admin_port=first + 1,
        more_ports=tuple(range(first + 2, base)),
        model=str(profile["models"][0]),
        profile=str(write_faster(profile, setting.speed, directory / file.name)),
        kv_tokens=int(profile["kv_tokens"]),
        directory=directory,
        envoy=binary.find(),
    )


def control_port(site: Site) -> int:
    """Where the emulator tells what its replicas have done."""
    return site.more_ports[-1]


async def start_replicas(setting: Setting, site: Site, family: Family) -> None:
    """Emulated replicas with nothing cached.

    They draw the length of an answer from its prompt: some routers pass on no header by which it
    could be asked for, and a limit in the body would tell our own what it has to guess. They take
    fields that they do not know, since SGLang's router adds some.
    """
    file = site.directory / "emulator.yaml"
    content = {
        "output_median": setting.output_median,
        "output_sigma": setting.output_sigma,
        "control_port": control_port(site),
        "strict_fields": False,
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
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


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.arena.run", description=__doc__)
    parser.add_argument("--peers", type=Path, help="folder with an environment for each peer")
    parser.add_argument("--trace", type=Path, default=shipped_trace(), help="else the shipped one")
    parser.add_argument("--workload", help="generated, instead of a trace: agents, mixed, ...")
    parser.add_argument("--seconds", type=float, default=140.0, help="of the trace")
    parser.add_argument("--time-scale", type=float, default=1.0, help="the trace's own clock")
    parser.add_argument("--profile", default=PROFILE, help="of the replicas and of the router")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--speed", type=float, default=8.0, help="of the replicas and the trace")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slo-ttft", type=float, default=2000.0, metavar="MS")
    parser.add_argument("--slo-ttft-per-ktok", type=float, default=150.0, metavar="MS")
    parser.add_argument("--slo-tpot", type=float, default=100.0, metavar="MS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="names or parts of names, by commas")
    parser.add_argument("--list", action="store_true", help="only tell who would run, how long")
    parser.add_argument("--json", type=Path, default=ROOT / "out" / "arena.json")
    parser.add_argument("--pages", action="store_true", help="write docs/benchmarks.md as well")
    return parser.parse_args()


def selected(all_of_them: Sequence[Contestant], only: str) -> list[Contestant]:
    """Those whose name holds one of the words; RefusedError for a word that none holds."""
    words = [word.strip() for word in only.split(",") if word.strip()]
    for word in words:
        if not any(word in each.name for each in all_of_them):
            names = "; ".join(each.name for each in all_of_them)
            raise RefusedError(f"no contestant is called '{word}' (there are: {names})")
    return [each for each in all_of_them if not words or any(word in each.name for word in words)]


def main() -> int:
    """The exit code: 0 when every contestant ran in every round."""
    options = arguments()
    setting = Setting(
        trace=str(options.trace),
        seconds=options.seconds,
        time_scale=options.time_scale,
        profile=options.profile,
        replicas=options.replicas,
        speed=options.speed,
        rounds=options.rounds,
        seed=options.seed,
        objective=Objective(options.slo_ttft, options.slo_ttft_per_ktok, options.slo_tpot),
    )
    if options.workload is not None:
        file = options.json.with_name(f"{options.workload}.jsonl")
        # As much of it as the run sends, in the trace's own time.
        seconds = setting.seconds * setting.time_scale
        median, sigma = write_workload(options.workload, seconds, setting.seed, file)
        setting = replace(setting, trace=str(file), output_median=median, output_sigma=sigma)
    peers = options.peers.absolute() if options.peers else None
    chosen = selected(contestants(peers), options.only)
    each = setting.seconds / setting.speed + AROUND_SECONDS
    minutes = each * len(chosen) * setting.rounds / 60
    names = ", ".join(contestant.name for contestant in chosen)
    print(f"{len(chosen)} contestants: {names}", flush=True)
    print(f"{setting.rounds} rounds, about {minutes:.0f} minutes", flush=True)
    if options.list:
        return 0
    os.environ["PYTHONPATH"] = str(ROOT)
    found = results.Results(options.json, setting, results.versions(chosen, peers))
    asyncio.run(run(setting, chosen, found, lambda text: print(text, flush=True)))
    table(found.content())
    if options.pages:
        results.write_page(found.content())
    return 0 if found.is_complete(len(chosen)) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RefusedError as problem:
        sys.exit(f"arena: {problem}")
