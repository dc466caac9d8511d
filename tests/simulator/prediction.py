"""What predicting answers' lengths is worth: `python -m tests.simulator.prediction`.

Goodput of the live core where it predicts them, where it knows them, and where it takes all for
equally long; on one trace and the same seeds. Writes the table into the docs.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.simulator.pages import write_between, write_results
from weighbridge.lab.simulate import DEFAULT_ENGINE, OURS, Fleet, Options, simulate
from weighbridge.lab.traces import shipped_trace

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "prediction.json"
PAGE = ROOT / "docs" / "prediction.md"

REPLICAS = 16
SEEDS = 5
# The conversation trace's answers are 343 tokens long on average.
TOLD: dict[str, str | dict[str, int] | None] = {
    "predicted": None,
    "known": "known",
    "all 343 tokens, the mean": {"tokens": 343},
    "all 256 tokens": {"tokens": 256},
    "all 4,096 tokens": {"tokens": 4096},
}


def run(trace: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """The goodput of each, and its last run's figures."""
    options = Options(
        trace=trace,
        fleets=[Fleet(DEFAULT_ENGINE, REPLICAS)],
        policies=[OURS],
        goodput=True,
        seeds=SEEDS,
        load=0.4,
        duration_s=seconds,
        warmup_s=seconds / 3,
    )
    found = {}
    for name, length in TOLD.items():
        result = simulate(replace(options, told_length=length))
        found[name] = {"goodput": result["goodput"][0], "row": result["rows"][0]}
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row each; ratios are of the same seeds."""
    lines = [
        "| answers' lengths | goodput, requests/s | of ours, seed by seed | MU max ÷ mean |",
        "|---|--:|--:|--:|",
    ]
    ours = found["predicted"]["goodput"]["seeds_rps"]
    for name, one in found.items():
        rates = one["goodput"]["seeds_rps"]
        ratios = [rate / max(own, 1e-9) for rate, own in zip(rates, ours, strict=True)]
        lines.append(
            f"| {name} | {one['goodput']['goodput_rps']:.2f} | {statistics.fmean(ratios):.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f}) | {one['row']['mu_max_over_mean']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs it, keeps the results, and writes the page anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=900.0, help="of the trace")
    parser.add_argument("--trace", type=Path, default=shipped_trace(), help="else the shipped one")
    given = parser.parse_args()
    found = run(given.trace, given.seconds)
    text = table(found)
    print(text)
    write_results(RESULTS, found)
    write_between(PAGE, "prediction", text)


if __name__ == "__main__":
    main()
