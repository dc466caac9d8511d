"""Overload, simulated: `python -m tests.simulator.overload` writes its tables into the docs.

A tenant with a promise, whose requests are the same in every run, beside a flood: ten tenants of
one trace, at loads from none to five times what 16 replicas can do. The same with admission off.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.simulator.pages import number, write_between, write_results
from weighbridge.config.admission import Queue
from weighbridge.lab.simulate import (
    DEFAULT_ENGINE,
    OURS,
    Fleet,
    Options,
    capacity_rps,
    interval,
    simulate,
)
from weighbridge.lab.traces import shipped_trace

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "overload.json"
PAGE = ROOT / "docs" / "benchmarks.md"

REPLICAS = 16
# The flood, times what the replicas do if they cached nothing; the first is next to none of it.
LOADS = (0.001, 0.5, 1.0, 2.0, 5.0)
SEEDS = 6
TENANTS = 10
SHEDDABLE, PROMISED = "t1", "promised"
# MU a minute of the model's reference replica, which these are not far from.
REPLICA_MU = 60_000
# Of the capacity: what is promised, and what its tenant asks for on average.
PROMISE, ASKED = 0.25, 0.15

Result = dict[str, Any]


def admission(**queue: float) -> dict[str, Any]:
    """Who may have what."""
    promised = {"guaranteed_mu_per_min": PROMISE * REPLICAS * REPLICA_MU}
    tenants = {PROMISED: promised, SHEDDABLE: {"priority": "sheddable"}}
    settings = Queue().model_dump() | queue
    return {"enabled": True, "queue": settings, "tenants": tenants}


def options(
    trace: Path, core: Mapping[str, Any], seconds: float, seed: int, loads: Sequence[float]
) -> Options:
    """One simulation at all loads."""
    flood = Options(
        trace=trace,
        fleets=[Fleet(DEFAULT_ENGINE, REPLICAS)],
        policies=[OURS],
        loads=loads,
        duration_s=seconds,
        warmup_s=seconds / 4,
        tenants=TENANTS,
        tenant_skew=1.0,
        seed=seed,
        core={"admission": core},
    )
    return replace(flood, steady={"tenant": PROMISED, "rate": ASKED * capacity_rps(flood)})


def run(
    trace: Path, core: Mapping[str, Any], seconds: float, seed: int, loads: Sequence[float]
) -> list[Result]:
    """What is kept of each load's run."""
    result = simulate(options(trace, core, seconds, seed, loads))
    kept = []
    for load, row, detail in zip(loads, result["rows"], result["details"], strict=True):
        keys = ("requests", "refused", "goodput_rps", "ttft_p50_ms", "ttft_p99_ms", "tpot_p99_ms")
        kept.append(
            {
                "seed": seed,
                "load": load,
                "offered_rps": row["offered_rps"],
                "goodput_rps": row["goodput_rps"],
                "ttft_p99_ms": row["ttft_p99_ms"],
                "refused": detail["refused"],
                "requests": detail["requests"],
                "tenants": {
                    name: {key: one[key] for key in keys} for name, one in detail["tenants"].items()
                },
            }
        )
    return kept


def at(runs: Sequence[Result], load: float) -> list[Result]:
    """The runs of a load, in the order of their seeds."""
    return [one for one in runs if one["load"] == load]


def table(on: Sequence[Result], off: Sequence[Result], loads: Sequence[float]) -> str:
    """What is served of the flood, load by load; means over the seeds."""
    lines = [
        "| flood | offered/s | goodput/s, admission off | on | refused: sheddable | others"
        " | others' TTFT p99, ms |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for load in loads:
        with_it, without = at(on, load), at(off, load)
        others = [
            each
            for one in with_it
            for name, each in one["tenants"].items()
            if name not in {SHEDDABLE, PROMISED}
        ]
        sheddable = [one["tenants"][SHEDDABLE] for one in with_it if SHEDDABLE in one["tenants"]]
        late = mean([one["ttft_p99_ms"] for one in others if one["ttft_p99_ms"]])
        lines.append(
            f"| {named(load)} | {mean([one['offered_rps'] for one in with_it]):.1f}"
            f" | {mean([one['goodput_rps'] for one in without]):.2f}"
            f" | {mean([one['goodput_rps'] for one in with_it]):.2f}"
            f" | {refused(sheddable)} | {refused(others)} | {number(late)} |"
        )
    return "\n".join(lines)


def promise_table(on: Sequence[Result], off: Sequence[Result], loads: Sequence[float]) -> str:
    """What the flood does to the tenant with a promise; its requests are the same in every row."""
    lines = [
        "| flood | refused | in time | TTFT p50, ms | ÷ alone | TTFT p99, ms | ÷ alone"
        " | TPOT p99, ms | TTFT p99 ÷ alone, admission off |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for load in loads:
        tenants = [one["tenants"][PROMISED] for one in at(on, load)]
        asked = sum(one["requests"] for one in tenants)
        seconds = mean([run["requests"] / run["offered_rps"] for run in at(on, load)])
        served = sum(one["goodput_rps"] for one in tenants) * seconds / asked
        alone = at(on, loads[0])
        lines.append(
            f"| {named(load)} | {refused(tenants)} | {served:.1%}"
            f" | {number(mean([one['ttft_p50_ms'] for one in tenants]))}"
            f" | {ratio(at(on, load), alone, 'ttft_p50_ms')}"
            f" | {number(mean([one['ttft_p99_ms'] for one in tenants]))}"
            f" | {ratio(at(on, load), alone, 'ttft_p99_ms')}"
            f" | {number(mean([one['tpot_p99_ms'] for one in tenants]))}"
            f" | {ratio(at(off, load), alone, 'ttft_p99_ms')} |"
        )
    return "\n".join(lines)


def ratio(runs: Sequence[Result], alone: Sequence[Result], key: str) -> str:
    """Of the promised tenant's time to that when it is alone, seed by seed: mean and interval."""
    by_seed = {one["seed"]: one["tenants"][PROMISED][key] for one in alone}
    ratios = [one["tenants"][PROMISED][key] / by_seed[one["seed"]] for one in runs]
    middle, half = interval(ratios)
    return f"{middle:.2f} ({middle - half:.2f} to {middle + half:.2f})"


def named(load: float) -> str:
    """A load as the tables have it."""
    return "none" if load == LOADS[0] else f"{load:g}x"


def mean(values: Sequence[float]) -> float:
    """0 of none."""
    return sum(values) / max(len(values), 1)


def refused(tenants: Sequence[Mapping[str, Any]]) -> str:
    """The share of requests refused."""
    requests = sum(each["requests"] for each in tenants)
    return f"{sum(each['refused'] for each in tenants) / max(requests, 1):.1%}"


def main() -> None:
    """Runs it, keeps the results, and writes the page anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of the trace")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--loads", type=float, nargs="*", default=LOADS)
    parser.add_argument("--queue", default="{}", help="queue settings to try, JSON")
    parser.add_argument("--dry", action="store_true", help="only print; nothing is written")
    parser.add_argument("--trace", type=Path, default=shipped_trace(), help="else the shipped one")
    given = parser.parse_args()
    on, off = [], []
    for seed in range(given.seeds):
        on += run(
            given.trace, admission(**json.loads(given.queue)), given.seconds, seed, given.loads
        )
        if not given.dry:
            off += run(given.trace, {"enabled": False}, given.seconds, seed, given.loads)
    off = off or on
    text = "\n\n".join(make(on, off, given.loads) for make in (table, promise_table))
    print(text)
    if not given.dry:
        results = {"seconds": given.seconds, "on": on, "off": off}
        write_results(RESULTS, results)
        write_between(PAGE, "overload", text)


if __name__ == "__main__":
    main()
