"""Tables of what was simulated."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

NONE = "-"


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints the runs, and the goodput where it was searched for."""
    console.print(runs(result, console.width))
    if result["goodput"]:
        console.print(goodput(result["goodput"]))


# Columns that only a wide terminal shows; all of them are in the JSON.
WIDE = 136


def runs(result: Mapping[str, Any], width: int) -> Table:
    """One line a run."""
    slo = result["scenario"]["slo"]
    trace, rows = result["trace"], result["rows"]
    table = Table(
        title=f"{trace['name']} before {rows[0]['replicas'] if rows else 0} replicas",
        caption=(
            f"SLO: first token within {slo['ttft_ms']:g} ms + {slo['ttft_ms_per_ktok']:g} ms per"
            f" 1,000 prompt tokens, then {slo['tpot_ms']:g} ms a token. TTFT and TPOT: median and"
            " 99th percentile, ms. Hits: share of prompt tokens, and of what one pooled cache hits."
        ),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in columns(rows, width):
        justify: Literal["left", "right"] = "left" if column == "policy" else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    best = max((row["slo_attainment"] for row in rows), default=0.0)
    for row in rows:
        cells = figures(row)
        style = "bold" if row["slo_attainment"] == best else None
        table.add_row(*(cells[column] for column in columns(rows, width)), style=style)
    return table


def columns(rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """What there is room for."""
    wide = width >= WIDE
    chosen = {
        "policy": True,
        "offered/s": True,
        "good/s": wide,
        "in SLO": True,
        "TTFT": True,
        "TPOT": True,
        "hits": True,
        "of pooled": wide,
        "MU max÷mean": wide,
        "MU": not wide,
        "spills": wide,
        "moved": wide,
        "s": any(row["wall_s"] is not None for row in rows),
    }
    return [column for column, shown in chosen.items() if shown]


def figures(row: Mapping[str, Any]) -> dict[str, str]:
    """A run's figures as text, by column."""
    pooled = row["pooled_hit_ratio"]
    balance = number(row["mu_max_over_mean"], 2)
    return {
        "policy": row["policy"],
        "offered/s": number(row["offered_rps"], 2),
        "good/s": number(row["goodput_rps"], 2),
        "in SLO": f"{row['slo_attainment']:.2%}",
        "TTFT": f"{number(row['ttft_p50_ms'], 0)} {number(row['ttft_p99_ms'], 0):>6}",
        "TPOT": f"{number(row['tpot_p50_ms'], 0)} {number(row['tpot_p99_ms'], 0):>3}",
        "hits": f"{row['cache_hit_ratio']:.1%}",
        "of pooled": f"{row['cache_hit_ratio'] / pooled:.0%}" if pooled else NONE,
        "MU max÷mean": balance,
        "MU": balance,
        "spills": f"{row['spills']:,}",
        "moved": f"{row['slices_moved']:,}",
        "s": number(row["wall_s"], 1),
    }


def goodput(found: Sequence[Mapping[str, Any]]) -> Table:
    """The goodput of each policy, the best first."""
    table = Table(title="Goodput", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy")
    for title in ("requests/s", "95 % interval", "of ours, seed by seed"):
        table.add_column(title, justify="right")
    for one in sorted(found, key=lambda one: -one["goodput_rps"]):
        table.add_row(
            one["policy"],
            number(one["goodput_rps"], 2),
            f"{one['low_rps']:.2f} to {one['high_rps']:.2f}",
            share(one["of_ours"]),
        )
    return table


def share(of_ours: Mapping[str, float] | None) -> str:
    """A share with its interval."""
    if of_ours is None:
        return NONE
    return f"{of_ours['mean']:.0%} ({of_ours['low']:.0%} to {of_ours['high']:.0%})"


def number(value: float | None, digits: int) -> str:
    """A figure, or a dash where there is none."""
    return NONE if value is None else f"{value:,.{digits}f}"
