"""The benchmark's tables for the documentation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.simulator.cases import Case

Result = Mapping[str, Any]


def page(results: Sequence[tuple[Case, Result]]) -> str:
    """All tables."""
    return "\n\n".join(section(case, result) for case, result in results)


def section(case: Case, result: Result) -> str:
    """One case's tables."""
    parts = [f"### {case.title}", conditions(result)]
    if result["goodput"]:
        parts.append(goodput_table(result))
        parts.append("Each policy at its own goodput:")
    parts.append(run_table(result))
    return "\n\n".join(parts)


def conditions(result: Result) -> str:
    """What was simulated, in a sentence or two."""
    scenario, trace = result["scenario"], result["trace"]
    fleets = " and ".join(
        f"{one['count']:,} replicas of {one['engine']}" for one in scenario["replicas"]
    )
    slo = scenario["slo"]
    events = f" Events: {', '.join(f'`{one}`' for one in scenario['events'])}." * bool(
        scenario["events"]
    )
    return (
        f"`{trace['name']}` ({trace['requests']:,} requests, {trace['sessions']:,} sessions) for"
        f" {scenario['duration_s']:g} s, the first {scenario['warmup_s']:g} s not measured, before"
        f" {fleets}. SLO: first token within"
        f" {slo['ttft_ms']:g} ms + {slo['ttft_ms_per_ktok']:g} ms per 1,000 prompt tokens, and"
        f" {slo['tpot_ms']:g} ms a token after it, for {slo['share']:.0%} of requests.{events}"
        f"{cost(result.get('took'))}{later(result.get('run_again', []))}"
    )


def later(policies: Sequence[str]) -> str:
    """Which rows are of later code than the rest, where they are not all of one run."""
    if not policies:
        return ""
    names = ", ".join(f"`{policy}`" for policy in policies)
    return f" Rows of {names} were run again later than the others, with the code of that time."


def cost(took: Mapping[str, float] | None) -> str:
    """How long the case took, where that is known."""
    if took is None:
        return ""
    return (
        f" The case took {took['wall_s']:,.0f} s on {took['cores']:.0f} cores, and"
        f" {took['cpu_s']:,.0f} CPU seconds."
    )


def goodput_table(result: Result) -> str:
    """Goodput with its interval, the best first."""
    lines = [
        "| policy | goodput, requests/s | 95 % interval | of weighbridge's, seed by seed |",
        "|---|--:|--:|--:|",
    ]
    for one in sorted(result["goodput"], key=lambda one: -float(one["goodput_rps"])):
        of_ours = one["of_ours"]
        share = (
            f"{of_ours['mean']:.2f} ({of_ours['low']:.2f} to {of_ours['high']:.2f})"
            if of_ours
            else "-"
        )
        lines.append(
            f"| {named(one['policy'], result)} | {one['goodput_rps']:.2f}"
            f" | {one['low_rps']:.2f} to {one['high_rps']:.2f} | {share} |"
        )
    return "\n".join(lines)


def run_table(result: Result) -> str:
    """Every run."""
    lines = [
        "| policy | offered/s | in SLO | TTFT p50, p99 ms | TPOT p50, p99 ms | hits"
        " | ÷ pooled | MU max ÷ mean | spills | slices moved | lost |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row, detail in zip(result["rows"], result["details"], strict=True):
        pooled = row["pooled_hit_ratio"]
        lines.append(
            f"| {named(row['policy'], result)} | {row['offered_rps']:.2f}"
            f" | {row['slo_attainment']:.2%}"
            f" | {number(row['ttft_p50_ms'])}, {number(row['ttft_p99_ms'])}"
            f" | {number(row['tpot_p50_ms'])}, {number(row['tpot_p99_ms'])}"
            f" | {row['cache_hit_ratio']:.1%}"
            f" | {row['cache_hit_ratio'] / pooled if pooled else 0:.2f}"
            f" | {number(row['mu_max_over_mean'], 2)} | {row['spills']:,}"
            f" | {row['slices_moved']:,}"
            f" | {detail['lost'] + detail['refused'] + detail['unfinished']:,} |"
        )
    return "\n".join(lines)


def named(policy: str, result: Result) -> str:
    """A policy's name; ours stands out."""
    return f"**{policy}**" if policy == result["ours"] else policy


def number(value: float | None, digits: int = 0) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def write_results(file: Path, results: Any) -> None:
    """Writes results as JSON. An interruption leaves the file whole."""
    file.parent.mkdir(exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(file)


def write_between(file: Path, name: str, text: str) -> None:
    """Replaces what stands between the marks `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page_text = file.read_text(encoding="utf-8")
    before, found, rest = page_text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{file}: the marks of '{name}' are missing")
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
