"""Plots of what was simulated, as PNG files. Needs matplotlib: `pip install weighbridge[plots]`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 120
# Reads well for those who do not tell red from green.
COLOURS = "tab20"


def write(result: Mapping[str, Any], directory: Path) -> list[Path]:
    """Writes every plot that the result has data for; the files."""
    directory.mkdir(parents=True, exist_ok=True)
    colours = colour_of(result)
    figures = {
        "ttft.png": ttft(result, colours),
        "mu.png": mu_over_time(result),
        "hits.png": hits_over_time(result, colours),
        "goodput.png": goodput_by_rate(result, colours),
    }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(directory / name, dpi=DPI, bbox_inches="tight")
            written.append(directory / name)
    return written


def colour_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """A colour for each policy; ours stands out."""
    policies = list(dict.fromkeys(row["policy"] for row in result["rows"]))
    palette = matplotlib.colormaps[COLOURS]
    colours: dict[str, Any] = {name: palette(at % 20) for at, name in enumerate(policies)}
    return colours | {"weighbridge": "black"}


def last_of_each(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The details of each policy's run at its highest rate."""
    found: dict[str, Mapping[str, Any]] = {}
    for detail in result["details"]:
        known = found.get(detail["policy"])
        if known is None or detail["rate_rps"] >= known["rate_rps"]:
            found[detail["policy"]] = detail
    return list(found.values())


def ttft(result: Mapping[str, Any], colours: Mapping[str, Any]) -> Figure | None:
    """The distribution of the time to the first token, by policy."""
    figure = Figure(figsize=(9, 5))
    axes: Axes = figure.subplots()
    drawn = False
    for detail in last_of_each(result):
        times = detail["ttft_percentiles_ms"]
        if times:
            drawn = True
            shares = [at / (len(times) - 1) for at in range(len(times))]
            axes.plot(times, shares, label=detail["policy"], color=colours[detail["policy"]])
    axes.set_xscale("log")
    axes.set_xlabel("time to first token, ms")
    axes.set_ylabel("share of requests")
    axes.set_title(f"Time to first token, {headline(result)}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure if drawn else None


def mu_over_time(result: Mapping[str, Any]) -> Figure | None:
    """A heat map for each policy: MU by replica, minute by minute, ÷ the mean of all."""
    details = [one for one in last_of_each(result) if whole_minutes(result, one)]
    if not details:
        return None
    columns = min(3, len(details))
    rows = -(-len(details) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    shown = None
    for axes, detail in zip(panels.flat, details, strict=False):
        grid = mu_grid(whole_minutes(result, detail))
        shown = axes.imshow(
            grid, aspect="auto", origin="lower", cmap="RdBu_r", vmin=0, vmax=2, interpolation="none"
        )
        axes.set_title(detail["policy"], fontsize="medium")
        axes.set_xlabel("minute", fontsize="small")
        axes.set_ylabel("replica", fontsize="small")
    for axes in panels.flat[len(details) :]:
        axes.set_visible(False)
    if shown is not None:
        figure.colorbar(shown, ax=list(panels.flat), label="MU of the replica ÷ mean")
    figure.suptitle(f"Work by replica, {headline(result)}")
    return figure


def whole_minutes(
    result: Mapping[str, Any], detail: Mapping[str, Any]
) -> Sequence[Mapping[str, Any]]:
    """The minutes in which requests still arrived to their end; all, where there is none."""
    minutes: Sequence[Mapping[str, Any]] = detail["minutes"]
    length = result["scenario"]["duration_s"]
    whole = len(minutes) if length is None else int(length // 60)
    return minutes[:whole] or minutes


def mu_grid(minutes: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Replicas by minutes: each one's MU ÷ the mean of that minute."""
    replicas = max(len(minute["mu"]) for minute in minutes)
    columns = []
    for minute in minutes:
        mu = [*minute["mu"], *[0.0] * (replicas - len(minute["mu"]))]
        mean = sum(mu) / len(mu) if mu else 0.0
        columns.append([one / mean if mean else 0.0 for one in mu])
    return [list(row) for row in zip(*columns, strict=True)]


def hits_over_time(result: Mapping[str, Any], colours: Mapping[str, Any]) -> Figure | None:
    """The share of prompt tokens that were cached, minute by minute."""
    figure = Figure(figsize=(9, 5))
    axes: Axes = figure.subplots()
    drawn = False
    for detail in last_of_each(result):
        minutes = [one for one in whole_minutes(result, detail) if one["prompt_tokens"]]
        if minutes:
            drawn = True
            shares = [minute["cached_tokens"] / minute["prompt_tokens"] for minute in minutes]
            axes.plot(shares, label=detail["policy"], color=colours[detail["policy"]])
    pooled = next((row["pooled_hit_ratio"] for row in result["rows"]), 0.0)
    if pooled:
        axes.axhline(pooled, color="grey", linestyle=":", label="one pooled cache, mean")
    axes.set_xlabel("minute")
    axes.set_ylabel("share of prompt tokens cached")
    axes.set_ylim(bottom=0)
    axes.set_title(f"Cache hits, {headline(result)}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure if drawn else None


def goodput_by_rate(result: Mapping[str, Any], colours: Mapping[str, Any]) -> Figure | None:
    """Good requests a second against those offered; where goodput was searched for, its bars."""
    rows, found = result["rows"], result["goodput"]
    by_policy: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], []).append(row)
    figure = Figure(figsize=(9, 5))
    axes: Axes = figure.subplots()
    if found:
        ordered = sorted(found, key=lambda one: one["goodput_rps"])
        means = [one["goodput_rps"] for one in ordered]
        errors = [
            [one["goodput_rps"] - one["low_rps"] for one in ordered],
            [one["high_rps"] - one["goodput_rps"] for one in ordered],
        ]
        names = [one["policy"] for one in ordered]
        axes.barh(names, means, xerr=errors, color=[colours[name] for name in names], alpha=0.8)
        axes.set_xlabel("goodput, requests/s (95 % interval over seeds)")
    elif max((len(several) for several in by_policy.values()), default=0) > 1:
        for policy, several in by_policy.items():
            ordered = sorted(several, key=lambda row: row["offered_rps"])
            axes.plot(
                [row["offered_rps"] for row in ordered],
                [row["goodput_rps"] for row in ordered],
                marker="o",
                label=policy,
                color=colours[policy],
            )
        most = max(row["offered_rps"] for row in rows)
        axes.plot([0, most], [0, most], color="grey", linestyle=":", label="all good")
        axes.set_xlabel("offered, requests/s")
        axes.set_ylabel("within SLO, requests/s")
        axes.legend(fontsize="small")
    else:
        return None
    axes.set_title(f"Goodput, {headline(result)}")
    axes.grid(alpha=0.3)
    return figure


def headline(result: Mapping[str, Any]) -> str:
    """What was simulated, in a few words."""
    replicas = sum(fleet["count"] for fleet in result["scenario"]["replicas"])
    return f"{result['trace']['name']}, {replicas} replicas"
