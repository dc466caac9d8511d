"""Runs the simulator's benchmark and writes its tables: `python -m tests.simulator`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.simulator.cases import CASES, Case
from tests.simulator.pages import page, write_between
from weighbridge.errors import RefusedError
from weighbridge.simulate import OURS, checkout, parse_policies, simulate
from weighbridge.simulate_report import WIDE, show
from weighbridge.traces import find_trace

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "simulator.json"
PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> None:
    """Runs the cases asked for, keeps the results of the others, and writes the page anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--only", help=f"cases, by commas: {names}")
    parser.add_argument("--policies", help="by commas; else all")
    parser.add_argument("--pages", action="store_true", help="only write the page from the results")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if RESULTS.is_file():
        results = json.loads(RESULTS.read_text())
    wanted = [case for case in CASES if not options.only or case.name in options.only.split(",")]
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    for case in [] if options.pages else wanted:
        console.print(f"[bold]{case.title}")
        results[case.name] = run(case, options.policies, console)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    known = [(case, results[case.name]) for case in CASES if case.name in results]
    write_between(PAGE, "simulator", page(known))


def run(case: Case, policies: str | None, console: Console) -> dict[str, Any]:
    """One case: what is kept of it is small."""
    trace = find_trace(None, checkout())
    result = simulate(case.options(trace, parse_policies([policies or ""])), console)
    show(result, console)
    kept = ("policy", "requests", "finished", "refused", "lost", "unfinished", "retried", "reasons")
    return {
        "trace": result["trace"],
        "scenario": result["scenario"],
        "rows": result["rows"],
        "details": [{key: one[key] for key in kept} for one in result["details"]],
        "goodput": result["goodput"],
        "ours": OURS,
    }


if __name__ == "__main__":
    try:
        main()
    except RefusedError as error:
        sys.exit(f"simulator benchmark: {error}")
