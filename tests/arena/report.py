"""The arena's results as a table for a terminal, and as table and plot for the documentation."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]

# Heading, key, form, and whether the spread over the rounds is worth its room.
COLUMNS = (
    ("in SLO", "slo_attainment", "{:.1%}", True),
    ("goodput/s", "goodput_rps", "{:.2f}", False),
    ("TTFT p50 ms", "ttft_p50_ms", "{:,.0f}", True),
    ("TTFT p99 ms", "ttft_p99_ms", "{:,.0f}", True),
    ("TPOT p50 ms", "tpot_p50_ms", "{:.1f}", False),
    ("TPOT p99 ms", "tpot_p99_ms", "{:.1f}", False),
    ("hits", "cache_hit_ratio", "{:.1%}", True),
    ("work max ÷ mean", "work_max_over_mean", "{:.2f}", False),
    ("CPU s per 1,000", "router_cpu_s_per_1000", "{:.2f}", True),
    ("added p50 ms", "added_p50_ms", "{:.2f}", True),
    ("failed", "failed", "{:.0f}", False),
)


def ranked(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The runs of each contestant, the best goodput first."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["contestant"], []).append(row)
    return sorted(by_name.items(), key=lambda item: -median(item[1], "slo_attainment"))


def median(runs: Sequence[Row], key: str) -> float:
    """Of one figure over the rounds."""
    return statistics.median(float(run[key]) for run in runs)


def cell(runs: Sequence[Row], key: str, form: str, spread: bool) -> str:
    """The median, and how far the rounds were from it at most."""
    values = [float(run[key]) for run in runs]
    middle = statistics.median(values)
    text = form.format(middle)
    if len(values) < 2 or not spread:
        return text
    furthest = max(abs(value - middle) for value in values)
    return f"{text} ± {form.format(furthest)}"


def table(result: Mapping[str, Any]) -> None:
    """Prints it for a person."""
    shown = Table(title=versions(result))
    shown.add_column("router")
    for title, *_ in COLUMNS:
        shown.add_column(title, justify="right")
    for name, runs in ranked(result["rows"]):
        shown.add_row(name, *(cell(runs, key, form, more) for _, key, form, more in COLUMNS))
    console = Console(width=190)
    console.print(shown)
    for name, rates in result.get("goodput", {}).items():
        found = ", ".join(f"{rate:.2f}" for rate in rates)
        console.print(f"goodput of {name}: {found} requests/s by round")
    for text in result.get("warnings", ()):
        console.print(f"beware: {text}")


def versions(result: Mapping[str, Any]) -> str:
    """Who took part, by product and version."""
    return ", ".join(f"{name} {version}" for name, version in result["versions"].items())


def page(result: Mapping[str, Any], plot_file: str | None) -> str:
    """The section of the documentation."""
    parts = [conditions(result), markdown(result)]
    warned = result.get("warnings", ())
    if warned:
        parts.append("Beware of these runs: " + "; ".join(warned) + ".")
    missing = result["failures"]
    if missing:
        parts.append("Runs that failed: " + "; ".join(missing) + ".")
    if plot_file is not None:
        parts.append(f"![Requests within the SLO, and cache hits, by router]({plot_file})")
    return "\n\n".join(parts)


def conditions(result: Mapping[str, Any]) -> str:
    """What was measured on what, in a few sentences."""
    setting, machine = result["setting"], result["machine"]
    slo = setting["slo"]
    busy = [row["machine_busy"] for row in result["rows"]] or [0.0]
    return (
        f"`{setting['trace']}`, its first {setting['seconds']:g} s"
        f" ({result['requests']:,} requests, {result['offered_rps']:.2f}/s in the replicas' time)"
        f" before {setting['replicas']} emulated replicas of {setting['profile']} at"
        f" {setting['speed']:g} times real speed, cold at the start of each run;"
        f"{special(setting)} {setting['rounds']} interleaved rounds. SLO: first token within"
        f" {slo['ttft_ms']:g} ms + {slo['ttft_ms_per_ktok']:g} ms per 1,000 prompt tokens, then"
        f" {slo['tpot_ms']:g} ms a token. Medians ± the furthest round."
        f" Versions: {versions(result)}. Measured {machine['date']} on {machine['cores']} cores"
        f" ({machine['cpu']}), which also ran the replicas and the client; load average"
        f" {machine['load_before']:.1f} before the first run; cores"
        f" {statistics.median(busy):.0%} busy in the median run, {max(busy):.0%} in the worst."
    )


def special(setting: Mapping[str, Any]) -> str:
    """What is not as in every arena."""
    found = ""
    if setting.get("clients"):
        found += f" {setting['clients']} clients, each sending as it is answered;"
    if setting.get("warm_seconds"):
        found += f" the first {setting['warm_seconds']:g} s not measured;"
    if setting.get("kills"):
        found += f" killed: {', '.join(setting['kills'])};"
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """The table."""
    titles = " | ".join(title for title, *_ in COLUMNS)
    lines = [f"| router | {titles} |", "|---|" + "--:|" * len(COLUMNS)]
    for name, runs in ranked(result["rows"]):
        shown = f"**{name}**" if name.startswith("weighbridge") else name
        cells = " | ".join(cell(runs, key, form, more) for _, key, form, more in COLUMNS)
        lines.append(f"| {shown} | {cells} |")
    return "\n".join(lines)


def plot(result: Mapping[str, Any], file: Path) -> None:
    """Bars of goodput and of cache hits with their spread, as a PNG file."""
    from matplotlib.figure import Figure

    order = ranked(result["rows"])[::-1]
    names = [name for name, _ in order]
    figure = Figure(figsize=(11, 0.38 * len(order) + 1.4))
    axes = figure.subplots(1, 2, sharey=True)
    panels = (("slo_attainment", "requests within the SLO, %"), ("cache_hit_ratio", "hits, %"))
    for one, (key, title) in zip(axes, panels, strict=True):
        values = [[100 * float(run[key]) for run in runs] for _, runs in order]
        middle = [statistics.median(each) for each in values]
        low = [statistics.median(each) - min(each) for each in values]
        high = [max(each) - statistics.median(each) for each in values]
        colours = ["black" if name.startswith("weighbridge") else "tab:blue" for name in names]
        one.barh(names, middle, xerr=[low, high], color=colours, ecolor="tab:orange", capsize=3)
        one.set_xlabel(title)
        one.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=110, bbox_inches="tight")
