"""Runs the arena: every contestant in turn, round after round, on cold replicas and one trace.

python -m tests.arena.run --peers FOLDER --json out/arena.json
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp

from tests.arena import results
from tests.arena.climb import Climb, ladder
from tests.arena.contestants import Contestant, envoy_policies, weighbridge
from tests.arena.live import Ended, one_run
from tests.arena.peers import peer_routers
from tests.arena.report import table
from tests.arena.setting import Objective, Setting, kill_of, requests_in, write_workload
from weighbridge.errors import RefusedError
from weighbridge.lab.traces import shipped_trace

PROFILE = "llama-3.1-70b-fp8-h100x4"
ROOT = Path(__file__).resolve().parents[2]
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


def order(chosen: Sequence[Contestant], round_number: int, rounds: int) -> list[Contestant]:
    """Each round begins with another, so that none always comes after the same one."""
    first = (round_number - 1) * len(chosen) // rounds
    return [*chosen[first:], *chosen[:first]]


async def run(
    setting: Setting, chosen: Sequence[Contestant], found: results.Results, say: Say
) -> None:
    """All rounds. A contestant that fails is reported and left out of that round."""
    found.begin(requests_in(setting))
    for round_number in range(1, setting.rounds + 1):
        for contestant in order(chosen, round_number, setting.rounds):
            await told(setting, contestant, round_number, found, say)


async def search(
    setting: Setting,
    chosen: Sequence[Contestant],
    scales: Sequence[float],
    found: results.Results,
    say: Say,
) -> None:
    """All rounds of the search: in each, every contestant takes one step before any the next."""
    found.begin(requests_in(setting))
    for round_number in range(1, setting.rounds + 1):
        climbs = {contestant.name: Climb(scales) for contestant in chosen}
        kept = dict.fromkeys(climbs, 0.0)
        while not all(climb.is_over for climb in climbs.values()):
            for contestant in order(chosen, round_number, setting.rounds):
                climb = climbs[contestant.name]
                if not climb.is_over:
                    at = replace(setting, time_scale=scales[climb.at])
                    ended = await told(at, contestant, round_number, found, say)
                    if climb.note(ended.figures.slo_attainment if ended else 0.0) and ended:
                        kept[contestant.name] = ended.figures.offered_rps
        for name, rate in kept.items():
            found.found_goodput(name, rate)
            say(f"round {round_number}: {name}: goodput {rate:.2f}/s")


async def told(
    setting: Setting, contestant: Contestant, round_number: int, found: results.Results, say: Say
) -> Ended | None:
    """One run, put down and told of; None where it could not be made."""
    requests = requests_in(setting)
    start = time.monotonic()
    try:
        ended = await one_run(setting, requests, contestant, round_number)
    except (RefusedError, aiohttp.ClientError, OSError, TimeoutError) as error:
        text = f"round {round_number}: {contestant.name}: {type(error).__name__}: {error}"
        found.failed(text)
        say(text)
        return None
    row = ended.figures
    warnings = found.add(ended, requests)
    say(
        f"round {round_number}: {contestant.name}: {row.offered_rps:.2f}/s, "
        f"SLO {row.slo_attainment:.1%}, "
        f"TTFT p50 {row.ttft_p50_ms:.0f} p99 {row.ttft_p99_ms:.0f} ms, "
        f"TPOT p99 {row.tpot_p99_ms:.0f} ms, "
        f"cached {row.cache_hit_ratio:.1%}, failed {row.failed}, "
        f"machine {row.machine_busy:.0%} busy, {time.monotonic() - start:.0f} s"
    )
    for warning in warnings:
        say(f"  beware: {warning}")
    return ended


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.arena.run", description=__doc__)
    parser.add_argument("--peers", type=Path, help="folder with an environment for each peer")
    parser.add_argument("--trace", type=Path, default=shipped_trace(), help="else the shipped one")
    parser.add_argument("--workload", help="generated, instead of a trace: agents, mixed, ...")
    parser.add_argument("--seconds", type=float, default=140.0, help="of the trace")
    parser.add_argument("--time-scale", type=float, default=1.0, help="the trace's own clock")
    parser.add_argument("--profile", default=PROFILE, help="of the replicas; several: a:6,b:2")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--speed", type=float, default=8.0, help="of the replicas and the trace")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slo-ttft", type=float, default=2000.0, metavar="MS")
    parser.add_argument("--slo-ttft-per-ktok", type=float, default=150.0, metavar="MS")
    parser.add_argument("--slo-tpot", type=float, default=100.0, metavar="MS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--warm", type=float, default=0.0, metavar="S", help="not measured at first"
    )
    parser.add_argument("--clients", type=int, default=0, help="in a closed loop")
    parser.add_argument(
        "--kill", action="append", default=[], metavar="'at=60 kill=2 for=30'", help="repeatable"
    )
    parser.add_argument(
        "--goodput",
        metavar="LOW:HIGH",
        help="search the highest rate that is kept, between these time scales",
    )
    parser.add_argument("--steps", type=int, default=4, help="of that search, each a run")
    parser.add_argument("--only", default="", help="names or parts of names, by commas")
    parser.add_argument("--list", action="store_true", help="only tell who would run, how long")
    parser.add_argument("--json", type=Path, default=ROOT / "out" / "arena.json")
    parser.add_argument("--pages", action="store_true", help="write docs/benchmarks.md as well")
    return parser.parse_args()


def selected(all_of_them: Sequence[Contestant], only: str) -> list[Contestant]:
    """Those of a word's name, or else those whose name holds it; RefusedError where none does."""
    words = [word.strip() for word in only.split(",") if word.strip()]
    names = [each.name for each in all_of_them]
    wanted: set[str] = set()
    for word in words:
        found = [word] if word in names else [name for name in names if word in name]
        if not found:
            raise RefusedError(f"no contestant is called '{word}' (there are: {'; '.join(names)})")
        wanted |= set(found)
    return [each for each in all_of_them if not words or each.name in wanted]


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
        warm_seconds=options.warm,
        clients=options.clients,
        kills=tuple(options.kill),
    )
    scales = rungs(options.goodput, options.steps) if options.goodput else []
    check(setting, scales)
    if options.workload is not None:
        file = options.json.with_suffix(".jsonl")
        # As much of it as the runs send, in the trace's own time.
        seconds = setting.seconds * max([setting.time_scale, *scales])
        write_workload(options.workload, seconds, setting.seed, file)
        setting = replace(setting, trace=str(file))
    peers = options.peers.absolute() if options.peers else None
    chosen = selected(contestants(peers), options.only)
    each = setting.seconds / setting.speed + AROUND_SECONDS
    runs = len(chosen) * setting.rounds * (options.steps if scales else 1)
    names = ", ".join(contestant.name for contestant in chosen)
    print(f"{len(chosen)} contestants: {names}", flush=True)
    print(f"{setting.rounds} rounds, {runs} runs, about {each * runs / 60:.0f} minutes", flush=True)
    if options.list:
        return 0
    os.environ["PYTHONPATH"] = str(ROOT)
    found = results.Results(options.json, setting, results.versions(chosen, peers))

    def say(text: str) -> None:
        print(text, flush=True)

    if scales:
        asyncio.run(search(setting, chosen, scales, found, say))
    else:
        asyncio.run(run(setting, chosen, found, say))
    table(found.content())
    if options.pages:
        results.write_page(found.content())
    return 0 if found.is_complete(runs) else 1


def rungs(text: str, steps: int) -> list[float]:
    """The time scales that are tried; RefusedError where the text is no range."""
    low, _, high = text.partition(":")
    try:
        return ladder(float(low), float(high), steps)
    except ValueError:
        raise RefusedError(f"--goodput: '{text}': write it as LOW:HIGH, such as 0.5:4") from None


def check(setting: Setting, scales: Sequence[float]) -> None:
    """RefusedError for what cannot be run together."""
    for _ in setting.fleets:
        pass
    for text in setting.kills:
        if kill_of(text).count > setting.replicas:
            raise RefusedError(f"--kill: there are only {setting.replicas} replicas")
    if setting.clients and (scales or setting.warm_seconds):
        raise RefusedError("--clients: requests come as they are answered: no --goodput, no --warm")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RefusedError as problem:
        sys.exit(f"arena: {problem}")
