"""Runs the simulator at the arena's very setting and sets both side by side.

python -m tests.arena.agree

The same requests at the same times, the same replicas and objective, and answers as long as the
arena's were. Envoy, the network and HTTP are in the arena alone.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from tests.arena.contestants import Contestant
from tests.arena.results import DOCS, KEPT
from tests.arena.run import contestants
from tests.arena.setting import Setting, setting_of
from tests.simulator.pages import write_between
from weighbridge.errors import RefusedError
from weighbridge.simulate import Fleet, Options, simulate
from weighbridge.traces import load, shipped_trace

# How far the simulator's hits may be from the arena's, as a share of them.
HITS_WITHIN = 0.15


@dataclass(frozen=True, slots=True)
class Side:
    """One figure as it came out: over rounds, or over seeds."""

    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        """The median."""
        return statistics.median(self.values)

    def is_above(self, other: "Side") -> bool:
        """Whether even its lowest is above the other's highest."""
        return min(self.values) > max(other.values)

    def text(self) -> str:
        """Median and range, of a share."""
        low, high = min(self.values), max(self.values)
        return f"{self.middle:.1%} ({low:.1%} to {high:.1%})"


@dataclass(frozen=True, slots=True)
class Pair:
    """A contestant in the arena and its policy in the simulator."""

    name: str
    policy: str
    live_slo: Side
    simulated_slo: Side
    live_hits: Side
    simulated_hits: Side

    @property
    def hits_off(self) -> float:
        """How far the simulator's hits are from the arena's, as a share of them."""
        live = self.live_hits.middle
        return abs(self.simulated_hits.middle - live) / live if live else 0.0


@dataclass(frozen=True, slots=True)
class Order:
    """How many pairs of contestants are in the same order on both sides."""

    same: int
    all: int
    # Pairs that both sides tell apart for sure, in opposite order.
    against: tuple[str, ...]


def compare(content: Mapping[str, Any], trace: Path, seeds: int) -> list[Pair]:
    """Simulates what the arena ran."""
    setting = setting_of(content["setting"], trace)
    live: dict[str, list[Mapping[str, Any]]] = {}
    for row in content["rows"]:
        live.setdefault(row["contestant"], []).append(row)
    known = [one for one in contestants(Path()) if one.simulated and one.name in live]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "arena.jsonl"
        write_trace(setting, content["answers"], file)
        simulated = {
            keyed: rows_of(setting, file, known, keyed=keyed, seeds=seeds)
            for keyed in (True, False)
        }
    return [
        Pair(
            name=one.name,
            policy=str(one.simulated),
            live_slo=side(live[one.name], "slo_attainment"),
            simulated_slo=side(simulated[is_keyed(one)][str(one.simulated)], "slo_attainment"),
            live_hits=side(live[one.name], "cache_hit_ratio"),
            simulated_hits=side(simulated[is_keyed(one)][str(one.simulated)], "cache_hit_ratio"),
        )
        for one in known
    ]


def is_keyed(contestant: Contestant) -> bool:
    """Whether it is told the session."""
    return bool(contestant.session_headers)


def write_trace(setting: Setting, answers: Sequence[Sequence[Any]], file: Path) -> None:
    """The arena's trace with the lengths that its answers had."""
    trace = load(Path(setting.trace))
    trace.save(file)
    lengths = {(session, round(at_s, 5)): tokens for session, at_s, tokens in answers}
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        key = (line["session"], round(line["at_s"] / setting.time_scale, 5))
        line["output_tokens"] = lengths.get(key, line["output_tokens"])
        lines.append(json.dumps(line))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows_of(
    setting: Setting, trace: Path, chosen: Sequence[Contestant], *, keyed: bool, seeds: int
) -> dict[str, list[Mapping[str, Any]]]:
    """The simulator's rows by policy, one for each seed, with or without the session's header."""
    policies = sorted({str(one.simulated) for one in chosen if is_keyed(one) is keyed})
    found: dict[str, list[Mapping[str, Any]]] = {policy: [] for policy in policies}
    if not policies:
        return found
    rate = load(trace).rate * setting.time_scale
    for seed in range(seeds):
        options = Options(
            trace=trace,
            fleets=[Fleet(setting.profile, setting.replicas)],
            policies=policies,
            rates=[rate],
            duration_s=setting.seconds,
            time_scale=setting.time_scale,
            warmup_s=0.0,
            slo_ttft_ms=setting.objective.ttft_ms,
            slo_ttft_ms_per_ktok=setting.objective.ttft_ms_per_ktok,
            slo_tpot_ms=setting.objective.tpot_ms,
            seed=seed,
            session_header=keyed,
            # Clients send what the trace says was answered, not what the replicas did answer.
            answers_quoted=False,
        )
        for row in simulate(options)["rows"]:
            found[row["policy"]].append(row)
    return found


def side(rows: Sequence[Mapping[str, Any]], key: str) -> Side:
    """One figure of several rows."""
    return Side(tuple(float(row[key]) for row in rows))


def order_of(pairs: Sequence[Pair]) -> Order:
    """Whether both sides put the contestants in the same order, by requests within the SLO."""
    same, against, count = 0, [], 0
    for one, other in combinations(pairs, 2):
        count += 1
        live = one.live_slo.middle - other.live_slo.middle
        simulated = one.simulated_slo.middle - other.simulated_slo.middle
        same += live * simulated > 0 or live == simulated == 0
        for first, second in ((one, other), (other, one)):
            live_says = first.live_slo.is_above(second.live_slo)
            if live_says and second.simulated_slo.is_above(first.simulated_slo):
                against.append(f"{first.name} before {second.name}")
    return Order(same, count, tuple(against))


def page(pairs: Sequence[Pair], seeds: int) -> str:
    """The comparison for the documentation."""
    ranked = sorted(pairs, key=lambda pair: -pair.live_slo.middle)
    order = order_of(pairs)
    lines = [
        "| router | policy in the simulator | in SLO, arena | in SLO, simulator | hits, arena"
        " | hits, simulator | hits off by |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {pair.name} | `{pair.policy}` | {pair.live_slo.text()} | {pair.simulated_slo.text()}"
        f" | {pair.live_hits.text()} | {pair.simulated_hits.text()} | {pair.hits_off:.0%} |"
        for pair in ranked
    ]
    far = [pair for pair in pairs if pair.hits_off > HITS_WITHIN]
    hits = (
        f"Hits are within {HITS_WITHIN:.0%} for all."
        if not far
        else f"Hits are further off than {HITS_WITHIN:.0%} for: "
        + ", ".join(pair.name for pair in far)
        + "."
    )
    contrary = (
        "no two that both sides tell apart are in opposite order"
        if not order.against
        else "both sides are sure of opposite orders for: " + "; ".join(order.against)
    )
    return (
        f"Medians and ranges, the arena's over its rounds, the simulator's over {seeds} seeds.\n\n"
        + "\n".join(lines)
        + f"\n\nOf {order.all} pairs of routers, {order.same} are in the same order by their"
        f" medians; {contrary}. {hits}"
    )


def main() -> int:
    """The exit code: 1 where --check is given and the two do not agree."""
    parser = argparse.ArgumentParser(prog="python -m tests.arena.agree", description=__doc__)
    parser.add_argument("--json", type=Path, default=KEPT, help="the arena's results")
    parser.add_argument("--trace", type=Path, default=shipped_trace(), help="else the shipped one")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-pages", action="store_true", help="only print it")
    parser.add_argument("--check", action="store_true", help="fail where they do not agree")
    options = parser.parse_args()
    content = read(options.json)
    trace = options.trace
    if trace.name != content["setting"]["trace"]:
        raise RefusedError(f"{options.json} is of {content['setting']['trace']}, not {trace.name}")
    pairs = compare(content, trace, options.seeds)
    text = page(pairs, options.seeds)
    print(text)
    if not options.no_pages:
        write_between(DOCS / "benchmarks.md", "agree", text)
    agreed = not order_of(pairs).against and all(pair.hits_off <= HITS_WITHIN for pair in pairs)
    return 0 if agreed or not options.check else 1


def read(file: Path) -> dict[str, Any]:
    """Results of the arena."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RefusedError(f"{file}: {error}") from None
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RefusedError as problem:
        sys.exit(f"agree: {problem}")
