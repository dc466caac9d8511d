"""Ours beside the best other policy, over many settings: `python -m tests.simulator.sweep`.

Its table in the docs is written from the results that are kept: a setting that is not run again
keeps its row.

Each setting is a workload before a fleet. What is compared is goodput: the highest rate at which
99 % of the requests keep both objectives and none is refused. One line each, with ours ÷ the best
other's and ours ÷ the oracle's where it is asked for; at the end the least of them. Equal seeds
give equal figures.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.simulator.pages import number, write_between, write_results
from weighbridge.errors import RefusedError
from weighbridge.lab.simulate import OURS, Fleet, Options, parse_policies, simulate
from weighbridge.lab.traces import shipped_trace

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "sweep.json"
PAGE = ROOT / "docs" / "benchmarks.md"

# Those that have been best somewhere.
OTHERS = (
    "least_request",
    "bounded_hash",
    "cache_aware",
    "endpoint_picker",
    "dynamo_kv",
    "predicted_latency",
)
ORACLE = "oracle"
BIG, SMALL, SLOW, MIDDLE = (
    "llama-3.1-70b-fp8-h100x4",
    "llama-3.1-8b-fp8-h100",
    "llama-3.1-8b-fp8-l40s",
    "qwen3-32b-fp8-h100",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A workload before a fleet."""

    # None: the conversation trace.
    workload: str | None
    fleet: Mapping[str, int]
    load: float = 0.7
    seconds: float = 180.0
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As it is called on the command line."""
        fleet = "+".join(f"{count}x{engine}" for engine, count in self.fleet.items())
        extra = "".join(f",{key}={value}" for key, value in self.more.items())
        return f"{self.workload or 'conversation'}@{fleet}{extra}"

    def options(self, trace: Path, policies: Sequence[str], seed: int) -> Options:
        """The search to run."""
        return Options(
            trace=trace,
            generator=None if self.workload is None else {"workload": self.workload},
            fleets=[Fleet(engine, count) for engine, count in self.fleet.items()],
            policies=policies,
            goodput=True,
            seeds=1,
            seed=seed,
            load=self.load,
            duration_s=self.seconds,
            warmup_s=self.seconds / 3,
            precision=0.03,
            jobs=1,
            **self.more,
        )


TENANTS = {"tenants": 500}

SETTINGS = (
    Setting("chat", {BIG: 4}),
    Setting("chat", {BIG: 8}),
    Setting("chat", {BIG: 8}, more=TENANTS),
    Setting("chat", {SMALL: 4}),
    Setting("chat", {SLOW: 4}),
    Setting("chat", {BIG: 16}, seconds=120),
    Setting("chat", {BIG: 64}, seconds=60),
    Setting("chat", {SMALL: 6, SLOW: 6}, seconds=120),
    Setting("reasoning", {BIG: 8}, seconds=600),
    Setting("reasoning", {MIDDLE: 8}, seconds=600),
    Setting("agents", {BIG: 4}),
    Setting("agents", {BIG: 16}, seconds=120),
    Setting("agents", {SLOW: 4}),
    Setting("agents", {SMALL: 6, SLOW: 6}, seconds=120),
    Setting("agents", {BIG: 8}, more=TENANTS),
    Setting("batch", {BIG: 8}),
    Setting("batch", {SMALL: 4}),
    Setting("embeddings", {SMALL: 4}, seconds=60),
    Setting("images", {MIDDLE: 8}),
    Setting("short", {BIG: 4}, seconds=60),
    Setting("short", {SLOW: 8}, seconds=60),
    Setting("mixed", {BIG: 8}),
    Setting("mixed", {BIG: 16}, seconds=120),
    Setting("mixed", {SMALL: 6, SLOW: 6}, seconds=120),
    Setting(None, {BIG: 8}, load=0.5, seconds=300),
    Setting(None, {BIG: 16}, load=0.5, seconds=240),
)


def run(
    setting: Setting, trace: Path, policies: Sequence[str], seed: int, before: Mapping[str, Any]
) -> dict[str, Any]:
    """One setting: the goodput of each policy, and the ratios.

    Of policies that do not run, the figures are those of `before`.
    """
    start = time.process_time()
    result = simulate(setting.options(trace, policies, seed))
    goodput = dict(before.get("goodput_rps", {}))
    goodput |= {one["policy"]: one["goodput_rps"] for one in result["goodput"]}
    others = {name: rps for name, rps in goodput.items() if name not in (OURS, ORACLE)}
    if not others:
        raise RefusedError(f"{setting.name}, seed {seed}: no other policy has run yet")
    ours, best = goodput[OURS], max(others, key=others.__getitem__)
    details = {
        row["policy"]: {**row, **detail}
        for row, detail in zip(result["rows"], result["details"], strict=True)
    }
    keys = ("slo_attainment", "cache_hit_ratio", "late_first", "late_others", "refused", "reasons")
    return {
        "name": setting.name,
        "seed": seed,
        "goodput_rps": goodput,
        "best_other": best,
        "of_best_other": ratio(ours, others[best]),
        "of_oracle": ratio(ours, goodput[ORACLE]) if ORACLE in goodput else None,
        "at_goodput": dict(before.get("at_goodput", {}))
        | {name: {key: found[key] for key in keys} for name, found in details.items()},
        "cpu_s": round(time.process_time() - start, 1),
    }


def ratio(ours: float, other: float) -> float | None:
    """None where the other serves no rate at all."""
    return round(ours / other, 3) if other > 0 else None


def line(one: Mapping[str, Any]) -> str:
    """For people."""
    goodput = one["goodput_rps"]
    oracle = "" if one["of_oracle"] is None else f"  of oracle {one['of_oracle']:.3f}"
    of_best = "-" if one["of_best_other"] is None else f"{one['of_best_other']:.3f}"
    return (
        f"{one['name']:62} ours {goodput[OURS]:8.2f}  {one['best_other']:17}"
        f" {goodput[one['best_other']]:8.2f}  ratio {of_best}{oracle}  {one['cpu_s']:.0f} s"
    )


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The page's table: a row for each setting, means of the ratios over its seeds."""
    lines = [
        "| workload | replicas | seeds | weighbridge, requests/s | best other | requests/s"
        " | ÷ best other | ÷ oracle |",
        "|---|---|--:|--:|---|--:|--:|--:|",
    ]
    for setting in SETTINGS:
        runs = [one for one in results if one["name"] == setting.name]
        if not runs:
            continue
        fleet = ", ".join(f"{count} of {engine}" for engine, count in setting.fleet.items())
        tenants = f", {setting.more['tenants']} tenants" if setting.more else ""
        best = best_of(runs)
        lines.append(
            f"| {setting.workload or 'conversation trace'}{tenants} | {fleet} | {len(runs)}"
            f" | {number(mean([one['goodput_rps'][OURS] for one in runs]), 2)} | {best}"
            f" | {number(mean([one['goodput_rps'][best] for one in runs]), 2)}"
            f" | {number(mean([one['of_best_other'] for one in runs]), 2)}"
            f" | {number(mean([one['of_oracle'] for one in runs]), 2)} |"
        )
    return "\n".join(lines)


def best_of(runs: Sequence[Mapping[str, Any]]) -> str:
    """The other policy with the most goodput over these seeds."""
    others: list[str] = [name for name in runs[0]["goodput_rps"] if name not in (OURS, ORACLE)]
    return max(others, key=lambda name: sum(one["goodput_rps"][name] for one in runs))


def mean(values: Sequence[float | None]) -> float | None:
    """None where one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def kept() -> list[dict[str, Any]]:
    """All results that are kept."""
    results: list[dict[str, Any]] = (
        json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []
    )
    return results


def keep(one: Mapping[str, Any]) -> None:
    """Puts a result in the place of that of the same setting and seed, and writes the page anew."""
    results = kept()
    order = {setting.name: at for at, setting in enumerate(SETTINGS)}
    found = {
        (old["name"], old["seed"]): old for old in (*results, dict(one)) if old["name"] in order
    }
    results = [found[key] for key in sorted(found, key=lambda key: (order[key[0]], key[1]))]
    write_results(RESULTS, results)
    write_between(PAGE, "sweep", table(results))


def chosen(only: str) -> Iterator[Setting]:
    """Settings whose name holds one of the words; all where none is given."""
    words = [word for word in only.split(",") if word]
    unknown = [word for word in words if not any(word in one.name for one in SETTINGS)]
    if unknown:
        names = "; ".join(setting.name for setting in SETTINGS)
        raise RefusedError(f"no setting is called '{unknown[0]}' (there are: {names})")
    return (one for one in SETTINGS if not words or any(word in one.name for word in words))


def main() -> None:
    """Runs it, printing each setting as soon as it is done."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator.sweep", description=__doc__)
    parser.add_argument("--only", default="", help="parts of the settings' names, by commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--oracle", action="store_true", help="the oracle too: some times as long")
    parser.add_argument(
        "--policies",
        default=",".join((*OTHERS, OURS)),
        help="by commas; figures of those left out are the ones that are kept",
    )
    parser.add_argument("--list", action="store_true", help="only tell the settings")
    parser.add_argument("--json", type=Path, help="write the figures to this file, line by line")
    parser.add_argument(
        "--trace", type=Path, default=shipped_trace(), help="the conversation trace"
    )
    parser.add_argument("--dry", action="store_true", help="only print; the docs stay")
    given = parser.parse_args()
    settings = list(chosen(given.only))
    if given.list:
        print("\n".join(setting.name for setting in settings))
        return
    policies = [*parse_policies([given.policies]), *([ORACLE] if given.oracle else [])]
    ratios = []
    for setting in settings:
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            key = (setting.name, seed)
            same = (old for old in kept() if (old["name"], old["seed"]) == key)
            one = run(setting, given.trace, policies, seed, next(same, {}))
            print(line(one), flush=True)
            if given.json is not None:
                with given.json.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(one) + "\n")
            if not given.dry:
                keep(one)
            if one["of_best_other"] is not None:
                ratios.append((one["of_best_other"], one["name"]))
    least, where = min(ratios, default=(0.0, "nowhere"))
    below = sum(value < 1.0 for value, _ in ratios)
    print(f"{len(ratios)} settings, {below} below 1; least {least:.3f} at {where}")


if __name__ == "__main__":
    try:
        main()
    except RefusedError as error:
        sys.exit(f"sweep: {error}")
