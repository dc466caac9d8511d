"""Overload, simulated: `python -m tests.simulator.overload` writes its tables into the docs.

Ten tenants of one trace before 16 replicas, at loads up to five times what they can do. One was
promised more than it asks for, one is sheddable; the same with admission off.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tests.simulator.pages import number, write_between
from weighbridge.config import Queue
from weighbridge.simulate import DEFAULT_ENGINE, OURS, Fleet, Options, checkout, simulate
from weighbridge.traces import find_trace

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "overload.json"
PAGE = ROOT / "docs" / "benchmarks.md"

REPLICAS = 16
# Offered, times what the replicas do if they cached nothing; the first is unloaded.
LOADS = (0.2, 1.0, 2.0, 5.0)
TENANTS = 10
SHEDDABLE, PROMISED = "t1", "t10"
# MU a minute of the model's reference replica, which these are not far from.
REPLICA_MU = 60_000
PROMISE = 0.25


def admission(**queue: float) -> dict[str, Any]:
    """Who may have what."""
    promised = {"guaranteed_mu_per_min": PROMISE * REPLICAS * REPLICA_MU}
    tenants = {PROMISED: promised, SHEDDABLE: {"priority": "sheddable"}}
    settings = Queue().model_dump() | queue
    return {"enabled": True, "queue": settings, "tenants": tenants}


def options(core: dict[str, Any], seconds: float) -> Options:
    """One simulation at all loads."""
    return Options(
        trace=find_trace(None, checkout()),
        fleets=[Fleet(DEFAULT_ENGINE, REPLICAS)],
        policies=[OURS],
        loads=LOADS,
        duration_s=seconds,
        warmup_s=seconds / 4,
        tenants=TENANTS,
        tenant_skew=1.0,
        core={"admission": core},
    )


def run(core: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
    """What is kept of each load's run."""
    result = simulate(options(core, seconds))
    kept = []
    for load, row, detail in zip(LOADS, result["rows"], result["details"], strict=True):
        shares = {
            name: {key: one[key] for key in ("requests", "refused", "goodput_rps", "ttft_p99_ms")}
            for name, one in detail["tenants"].items()
        }
        kept.append(
            {
                "load": load,
                "offered_rps": row["offered_rps"],
                "goodput_rps": row["goodput_rps"],
                "ttft_p99_ms": row["ttft_p99_ms"],
                "refused": detail["refused"],
                "requests": detail["requests"],
                "tenants": shares,
            }
        )
    return kept


def table(on: list[dict[str, Any]], off: list[dict[str, Any]]) -> str:
    """Both, load by load."""
    lines = [
        "| load | offered/s | goodput/s, admission off | on | refused: sheddable | promised"
        " | others | promised tenant: in time | its TTFT p99, ms | others' |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one, without in zip(on, off, strict=True):
        tenants = one["tenants"]
        others = [each for name, each in tenants.items() if name not in {SHEDDABLE, PROMISED}]
        promised = tenants[PROMISED]
        served = promised["goodput_rps"] / max(offered(promised, one), 1e-9)
        late = max((each["ttft_p99_ms"] or 0.0) for each in others)
        lines.append(
            f"| {one['load']:g}x | {one['offered_rps']:.1f} | {without['goodput_rps']:.2f}"
            f" | {one['goodput_rps']:.2f} | {refused([tenants[SHEDDABLE]])}"
            f" | {refused([promised])} | {refused(others)} | {served:.1%}"
            f" | {number(promised['ttft_p99_ms'])} | {number(late)} |"
        )
    return "\n".join(lines)


def offered(tenant: dict[str, Any], one: dict[str, Any]) -> float:
    """A tenant's requests a second."""
    return float(tenant["requests"] * one["offered_rps"] / one["requests"])


def refused(tenants: list[dict[str, Any]]) -> str:
    """The share of requests refused."""
    requests = sum(each["requests"] for each in tenants)
    return f"{sum(each['refused'] for each in tenants) / max(requests, 1):.1%}"


def main() -> None:
    """Runs it, keeps the results, and writes the page anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of the trace")
    parser.add_argument("--queue", default="{}", help="queue settings to try, JSON; not written")
    given = parser.parse_args()
    queue = json.loads(given.queue)
    on = run(admission(**queue), given.seconds)
    off = run({"enabled": False}, given.seconds)
    text = table(on, off)
    print(text)
    if not queue:
        RESULTS.parent.mkdir(exist_ok=True)
        results = {"seconds": given.seconds, "on": on, "off": off}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        write_between(PAGE, "overload", text)


if __name__ == "__main__":
    main()
