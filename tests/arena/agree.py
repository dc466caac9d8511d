"""Runs the simulator at the arena's very settings and sets both side by side.

python -m tests.arena.agree [RESULT ...]

The same requests at the same times, the same replicas and objective, and answers as long as the
arena's were; where clients decided, each contestant's requests at the times at which they were
sent. Envoy, the network and HTTP are in the arena alone. Of one result, the page of the
documentation is written; of several, one table is printed, or JSON.
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

from rich.console import Console
from rich.table import Table

from tests.arena.results import DOCS, KEPT
from tests.arena.run import contestants
from tests.arena.setting import Setting, setting_of
from tests.simulator.pages import write_between
from weighbridge.errors import RefusedError
from weighbridge.lab.simulate import Fleet, Options, simulate
from weighbridge.lab.traces import load, shipped_trace

# How far the simulator's hits may be from the arena's, as a share of them,
HITS_WITHIN = 0.15
# and its share of requests within the SLO.
SLO_WITHIN = 0.03


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

    @property
    def slo_off(self) -> float:
        """How far the simulator's share of requests within the SLO is from the arena's."""
        return abs(self.simulated_slo.middle - self.live_slo.middle)


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
    pairs = []
    done: dict[tuple[str, bool, str], list[Mapping[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for one in known:
            # Where clients decided, its requests came at other times than others'.
            own = one.name if setting.clients else ""
            key = (str(one.simulated), bool(one.session_headers), own)
            if key not in done:
                file = Path(folder) / f"{len(done)}.jsonl"
                write_trace(setting, content["answers"], file, content.get("sent", {}).get(own))
                done[key] = rows_of(setting, file, key[0], keyed=key[1], seeds=seeds)
            rows = done[key]
            pairs.append(
                Pair(
                    name=one.name,
                    policy=key[0],
                    live_slo=side(live[one.name], "slo_attainment"),
                    simulated_slo=side(rows, "slo_attainment"),
                    live_hits=side(live[one.name], "cache_hit_ratio"),
                    simulated_hits=side(rows, "cache_hit_ratio"),
                )
            )
    return pairs


def write_trace(
    setting: Setting,
    answers: Sequence[Sequence[Any]],
    file: Path,
    sent: Sequence[Sequence[Any]] | None = None,
) -> None:
    """The arena's trace with the lengths that its answers had, at the times they were sent at."""
    trace = load(Path(setting.trace))
    trace.save(file)
    lengths = {(session, round(at_s, 5)): tokens for session, at_s, tokens in answers}
    times = {(session, round(at_s, 5)): seconds for session, at_s, seconds in sent or ()}
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        key = (line["session"], round(line["at_s"] / setting.time_scale, 5))
        line["output_tokens"] = lengths.get(key, line["output_tokens"])
        if sent is None or key in times:
            line["at_s"] = times.get(key, line["at_s"] / setting.time_scale)
            lines.append(line)
    lines.sort(key=lambda line: float(line["at_s"]))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def rows_of(
    setting: Setting, trace: Path, policy: str, *, keyed: bool, seeds: int
) -> list[Mapping[str, Any]]:
    """The simulator's rows, one for each seed, with or without the session's header."""
    found: list[Mapping[str, Any]] = []
    for seed in range(seeds):
        options = Options(
            trace=trace,
            fleets=[Fleet(name, count) for name, count in setting.fleets],
            policies=[policy],
            # The file has the setting's own times already.
            rates=[load(trace).rate],
            duration_s=None if setting.clients else setting.seconds,
            warmup_s=setting.warm_seconds,
            slo_ttft_ms=setting.objective.ttft_ms,
            slo_ttft_ms_per_ktok=setting.objective.ttft_ms_per_ktok,
            slo_tpot_ms=setting.objective.tpot_ms,
            seed=seed,
            session_header=keyed,
            # Clients send what the trace says was answered, not what the replicas did answer.
            answers_quoted=False,
            events=setting.kills,
        )
        found += simulate(options)["rows"]
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


def together(found: Mapping[str, Sequence[Pair]]) -> dict[str, Any]:
    """Several settings as JSON has them."""
    rows = [
        {
            "setting": name,
            "contestant": pair.name,
            "policy": pair.policy,
            "live_slo": round(pair.live_slo.middle, 4),
            "simulated_slo": round(pair.simulated_slo.middle, 4),
            "slo_off": round(pair.slo_off, 4),
            "live_hits": round(pair.live_hits.middle, 4),
            "simulated_hits": round(pair.simulated_hits.middle, 4),
        }
        for name, pairs in found.items()
        for pair in pairs
    ]
    # Hits by which replicas are told apart are the page's; here it is the SLO.
    within = all(pair.slo_off <= SLO_WITHIN for pairs in found.values() for pair in pairs)
    return {"slo_within": SLO_WITHIN, "holds": within, "rows": rows}


def show(result: Mapping[str, Any]) -> None:
    """Prints it for a person."""
    shown = Table(title=f"in SLO, live and simulated: within {result['slo_within']:.0%}")
    for title in ("setting", "router", "policy"):
        shown.add_column(title)
    for title in ("live", "simulated", "off by", "hits, live", "simulated"):
        shown.add_column(title, justify="right")
    keys = ("live_slo", "simulated_slo", "slo_off", "live_hits", "simulated_hits")
    for row in result["rows"]:
        mark = "" if row["slo_off"] <= result["slo_within"] else " !"
        shares = [f"{row[key]:.1%}" for key in keys]
        shares[2] += mark
        shown.add_row(row["setting"], row["contestant"], row["policy"], *shares)
    Console(width=140).print(shown)


def main() -> int:
    """The exit code: 1 where --check is given and the two do not agree."""
    parser = argparse.ArgumentParser(prog="python -m tests.arena.agree", description=__doc__)
    parser.add_argument("results", type=Path, nargs="*", default=[KEPT], help="the arena's results")
    parser.add_argument("--traces", type=Path, help="where they are, if not beside results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write what was found of several")
    parser.add_argument("--no-pages", action="store_true", help="only print it")
    parser.add_argument("--check", action="store_true", help="fail where they do not agree")
    options = parser.parse_args()
    found = {}
    for file in options.results:
        content = read(file)
        trace = trace_of(content, [file.parent, *([options.traces] if options.traces else [])])
        found[file.stem] = compare(content, trace, options.seeds)
    if len(found) > 1:
        result = together(found)
        show(result)
        if options.json is not None:
            options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        return 0 if result["holds"] or not options.check else 1
    (pairs,) = found.values()
    text = page(pairs, options.seeds)
    print(text)
    if not options.no_pages:
        write_between(DOCS / "benchmarks.md", "agree", text)
    agreed = not order_of(pairs).against and all(pair.hits_off <= HITS_WITHIN for pair in pairs)
    return 0 if agreed or not options.check else 1


def trace_of(content: Mapping[str, Any], folders: Sequence[Path]) -> Path:
    """The trace that results name: in one of the folders, or the one that ships."""
    name = str(content["setting"]["trace"])
    for file in (*(folder / name for folder in folders), shipped_trace()):
        if file.name == name and file.exists():
            return file
    raise RefusedError(f"there is no {name} in {', '.join(map(str, folders))}")


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
