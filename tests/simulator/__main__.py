"""Runs the simulator's benchmark and writes its tables: `python -m tests.simulator`."""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.simulator.cases import CASES, Case
from tests.simulator.pages import page, write_between, write_results
from weighbridge.errors import RefusedError
from weighbridge.lab.simulate import OURS, parse_policies, shares, simulate
from weighbridge.lab.simulate_report import WIDE, show
from weighbridge.lab.traces import shipped_trace

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "simulator.json"
PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> None:
    """Runs the cases asked for, writing each to the results and the page as soon as it is done."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--only", default="", help=f"cases, by commas: {names}")
    parser.add_argument("--missing", action="store_true", help="only cases without a result")
    parser.add_argument("--policies", default="", help="by commas, the others' rows stay; else all")
    parser.add_argument("--pages", action="store_true", help="only write the page from the results")
    parser.add_argument("--trace", type=Path, default=shipped_trace(), help="else the shipped one")
    options = parser.parse_args()
    results = stored()
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    wanted = [] if options.pages else chosen(options.only)
    for case in wanted:
        if options.missing and case.name in results:
            continue
        console.print(f"[bold]{case.title}")
        done = run(case, options.trace, parse_policies([options.policies]), console)
        # Read again: another run may have added cases meanwhile.
        results = stored()
        results[case.name] = merged(results.get(case.name), done)
        store(results)
    store(results)


def chosen(only: str) -> list[Case]:
    """The cases of these names, by commas; all where none is given."""
    names = [name for name in only.split(",") if name]
    known = {case.name: case for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RefusedError(f"there is no case '{unknown[0]}' (there are: {', '.join(known)})")
    return [known[name] for name in names] or list(CASES)


def stored() -> dict[str, Any]:
    """Results of earlier runs, by case."""
    if not RESULTS.is_file():
        return {}
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def store(results: Mapping[str, Any]) -> None:
    """Writes all results, and the page from them. An interruption leaves the files whole."""
    write_results(RESULTS, results)
    known = [(case, results[case.name]) for case in CASES if case.name in results]
    write_between(PAGE, "simulator", page(known))


def merged(before: Mapping[str, Any] | None, after: dict[str, Any]) -> dict[str, Any]:
    """A case's result with the rows of policies that were not run again as they were."""
    run_again = {row["policy"] for row in after["rows"]}
    if before is None or all(row["policy"] in run_again for row in before["rows"]):
        return after
    kept = {key: chosen_rows(before[key], after[key]) for key in ("rows", "details", "goodput")}
    rates = {one["policy"]: one["seeds_rps"] for one in kept["goodput"]}
    for one in kept["goodput"]:
        one["of_ours"] = shares(one["seeds_rps"], rates[OURS]) if OURS in rates else None
    # What it took is of no use where two runs are put together.
    return {**after, **kept, "took": None, "run_again": sorted(run_again)}


def chosen_rows(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Rows by policy: the later where there are two, in the order that they had."""
    later = {row["policy"]: row for row in after}
    rows = [later.pop(row["policy"], row) for row in before]
    return [*rows, *later.values()]


def run(case: Case, trace: Path, policies: Sequence[str], console: Console) -> dict[str, Any]:
    """One case: what is kept of it is small."""
    before = time.monotonic(), time.process_time()
    result = simulate(case.options(trace, policies), console)
    wall, cpu = time.monotonic() - before[0], time.process_time() - before[1]
    show(result, console)
    kept = ("policy", "requests", "finished", "refused", "lost", "unfinished", "retried", "reasons")
    return {
        "trace": result["trace"],
        "scenario": result["scenario"],
        "rows": result["rows"],
        "details": [{key: one[key] for key in kept} for one in result["details"]],
        "goodput": result["goodput"],
        "ours": OURS,
        "took": {"wall_s": round(wall), "cpu_s": round(cpu), "cores": os.cpu_count()},
    }


if __name__ == "__main__":
    try:
        main()
    except RefusedError as error:
        sys.exit(f"simulator benchmark: {error}")
