"""The arena's table: medians over the rounds, and how far apart the rounds were."""

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.arena.measure import Figures

COLUMNS = (
    ("SLO met", "slo_attainment", "{:.1%}"),
    ("goodput /s", "goodput_rps", "{:.2f}"),
    ("TTFT p50 ms", "ttft_p50_ms", "{:.0f}"),
    ("p99", "ttft_p99_ms", "{:.0f}"),
    ("TPOT p50 ms", "tpot_p50_ms", "{:.1f}"),
    ("p99", "tpot_p99_ms", "{:.1f}"),
    ("cached", "cache_hit_ratio", "{:.1%}"),
    ("work max/mean", "work_max_over_mean", "{:.2f}"),
    ("CPU s/1000", "router_cpu_s_per_1000", "{:.2f}"),
    ("added p50 ms", "added_p50_ms", "{:.2f}"),
    ("failed", "failed", "{:.0f}"),
)


def table(rows: Sequence[Figures], versions: dict[str, str]) -> None:
    """Prints the best goodput first."""
    by_name: dict[str, list[Figures]] = {}
    for row in rows:
        by_name.setdefault(row.contestant, []).append(row)
    shown = Table(title=", ".join(f"{name} {version}" for name, version in versions.items()))
    shown.add_column("router")
    for title, _, _ in COLUMNS:
        shown.add_column(title, justify="right")
    ranked = sorted(by_name.items(), key=lambda item: -median(item[1], "slo_attainment"))
    for name, runs in ranked:
        shown.add_row(name, *(cell(runs, key, style) for _, key, style in COLUMNS))
    Console(width=160).print(shown)


def median(runs: Sequence[Figures], key: str) -> float:
    """Of one figure over the rounds."""
    return statistics.median(float(getattr(run, key)) for run in runs)


def cell(runs: Sequence[Figures], key: str, style: str) -> str:
    """The median, and the spread where there are several rounds."""
    values = [getattr(run, key) for run in runs]
    text = style.format(statistics.median(values))
    if len(values) < 2:
        return text
    return f"{text} ±{style.format((max(values) - min(values)) / 2)}"
