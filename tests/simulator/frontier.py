"""Cache hits against goodput: `python -m tests.simulator.frontier` writes its table into the docs.

The same requests before the same replicas, with the weight of a lost cache against a wait turned
from one end to the other in the live core. Policies without such a knob, the oracle among them, are
points.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.simulator.pages import write_between
from weighbridge.config import Placing
from weighbridge.simulate import DEFAULT_ENGINE, OURS, Fleet, Options, simulate
from weighbridge.traces import shipped_trace

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "frontier.json"
PAGE = ROOT / "docs" / "benchmarks.md"

REPLICAS = 16
SEEDS = 3
# Settings were chosen on the trace's first half: this is its second.
START_S = 1800.0
DURATION_S = 600.0
WARMUP_S = 300.0


@dataclass(frozen=True, slots=True)
class Point:
    """One policy with one setting of its knob."""

    policy: str
    # What the table calls the setting.
    knob: str = ""
    placing: Mapping[str, float] = field(default_factory=dict)

    def options(self, options: Options) -> Options:
        """The simulation to run."""
        return replace(
            options,
            policies=[self.policy],
            core={"placing": dict(self.placing)},
        )


def ours(stall_weight: float, room_weight: float) -> Point:
    """The live core with these weights of a prefill that a cache would save."""
    placing = {"stall_weight": stall_weight, "room_weight": room_weight}
    knob = f"`stall_weight` {stall_weight:g}, `room_weight` {room_weight:g}"
    if (stall_weight, room_weight) == (Placing().stall_weight, Placing().room_weight):
        knob += " (as shipped)"
    return Point(OURS, knob, placing)


POINTS = (
    *(ours(weight, 0) for weight in (0, 1, 2, 4)),
    *(ours(4, weight) for weight in (12, 28, 60, 160)),
    *(
        Point(policy)
        for policy in (
            "ring_hash",
            "maglev",
            "bounded_hash",
            "cache_aware",
            "least_request",
            "dynamo_kv",
            "oracle",
        )
    ),
)


def run(trace: Path, loads: Sequence[float]) -> list[dict[str, Any]]:
    """Every point at every load: means over the seeds."""
    base = Options(
        trace=trace,
        fleets=[Fleet(DEFAULT_ENGINE, REPLICAS)],
        policies=[],
        loads=loads,
        start_s=START_S,
        duration_s=DURATION_S,
        warmup_s=WARMUP_S,
    )
    found = []
    for point in POINTS:
        seeds = [simulate(replace(point.options(base), seed=seed)) for seed in range(SEEDS)]
        for at, load in enumerate(loads):
            one = {
                "policy": point.policy,
                "knob": point.knob,
                "load": load,
                **mean(
                    [result["rows"][at] for result in seeds],
                    [result["details"][at] for result in seeds],
                ),
            }
            print(json.dumps(one), flush=True)
            found.append(one)
    return found


def mean(rows: Sequence[Mapping[str, Any]], details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept of a point's runs."""
    of = {
        "offered_rps": [row["offered_rps"] for row in rows],
        "slo_attainment": [row["slo_attainment"] for row in rows],
        "hits_of_pooled": [row["cache_hit_ratio"] / row["pooled_hit_ratio"] for row in rows],
        "mu_max_over_mean": [row["mu_max_over_mean"] for row in rows],
        "late_first": [one["late_first"] / one["requests"] for one in details],
        "late_others": [one["late_others"] / one["requests"] for one in details],
    }
    return {name: round(statistics.fmean(values), 5) for name, values in of.items()}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """A row each, in the order of hits."""
    parts = []
    for load in sorted({one["load"] for one in found}):
        at_load = [one for one in found if one["load"] == load]
        offered = statistics.fmean(one["offered_rps"] for one in at_load)
        lines = [
            f"Load {load:g}, {offered:.1f} requests/s:",
            "",
            "| policy | knob | hits ÷ pooled | in SLO | late: first token | late: others"
            " | MU max ÷ mean |",
            "|---|---|--:|--:|--:|--:|--:|",
        ]
        for one in sorted(at_load, key=lambda one: float(one["hits_of_pooled"])):
            name = f"**{one['policy']}**" if one["policy"] == OURS else one["policy"]
            lines.append(
                f"| {name} | {one['knob']} | {one['hits_of_pooled']:.3f}"
                f" | {one['slo_attainment']:.2%} | {one['late_first']:.2%}"
                f" | {one['late_others']:.2%} | {one['mu_max_over_mean']:.2f} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    """Runs it, keeps the results, and writes the page anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", default="0.5,0.65", help="by commas")
    parser.add_argument("--pages", action="store_true", help="only write the page from the results")
    parser.add_argument("--trace", type=Path, default=shipped_trace(), help="else the shipped one")
    given = parser.parse_args()
    if given.pages:
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
    else:
        found = run(given.trace, [float(load) for load in given.loads.split(",")])
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_between(PAGE, "frontier", table(found))


if __name__ == "__main__":
    main()
