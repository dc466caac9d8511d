"""The report's plots, each an SVG text of its own."""

import io
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from weighbridge.calibrate.fit.judge import HeldOut
from weighbridge.calibrate.fit.model import predicted
from weighbridge.calibrate.fit.points import Measurement
from weighbridge.calibrate.fit.steps import StepModel

INK = "#1f2933"
FIT = "#2563a8"
HELD = "#c2571a"
BAND = 0.05


def svg(figure: Figure) -> str:
    """A figure as text, the same for the same figure."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "weighbridge", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = out.getvalue()
    return text[text.index("<svg") :]


def residuals(step: StepModel, measured: Sequence[Measurement]) -> str:
    """Relative residuals by dimension: what the model does not explain shows as a pattern."""
    context = [one for one in measured if one.point.kind == "context" and one.values]
    decode = [one for one in measured if one.point.kind == "decode" and one.values]
    figure = Figure(figsize=(10, 5.6))
    axes = figure.subplots(2, 3)
    panels: tuple[tuple[str, list[Measurement], Callable[[Measurement], float]], ...] = (
        ("computed prompt tokens", context, lambda m: m.prompt_tokens - m.cached_tokens),
        ("cached tokens", context, lambda m: m.cached_tokens),
        ("beside a batch of", context, lambda m: m.batch),
        ("batch", decode, lambda m: m.batch),
        ("context per sequence", decode, lambda m: m.context_tokens / max(1.0, m.batch)),
        ("predicted ms", [*context, *decode], lambda m: predicted(step, m)),
    )
    least = step.step_ms(1, 0)
    for axis, (title, points, dimension) in zip(axes.flat, panels, strict=True):
        for held_out, colour in ((False, FIT), (True, HELD)):
            chosen = [one for one in points if one.point.held_out is held_out]
            x = [max(0.5, dimension(one)) for one in chosen]
            y = [
                100 * (one.value - predicted(step, one)) / max(predicted(step, one), least)
                for one in chosen
            ]
            axis.scatter(x, y, s=14, color=colour, alpha=0.75, linewidths=0)
        frame(axis, title)
    axes[0][0].set_ylabel("prompts: residual %")
    axes[1][0].set_ylabel("steps: residual %")
    figure.tight_layout()
    return svg(figure)


def frame(axis: Axes, title: str) -> None:
    """What all residual panels share."""
    axis.set_xscale("log")
    axis.axhspan(-100 * BAND, 100 * BAND, color=FIT, alpha=0.08, linewidth=0)
    axis.axhline(0, color=INK, linewidth=0.6)
    low, high = axis.get_ylim()
    reach = max(10.0, abs(low), abs(high))
    axis.set_ylim(-reach, reach)
    axis.set_xlabel(title)
    axis.tick_params(labelsize=8)
    axis.xaxis.set_minor_formatter(NullFormatter())
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def held_out(found: Sequence[HeldOut]) -> str:
    """Predicted against measured, for latencies that the fit has not seen."""
    figure = Figure(figsize=(5.2, 4.4))
    axis = figure.subplots()
    kinds = sorted({one.what for one in found})
    marks = "osD^vP"
    for kind, mark in zip(kinds, marks, strict=False):
        chosen = [one for one in found if one.what == kind]
        axis.scatter(
            [one.measured_ms for one in chosen],
            [one.predicted_ms for one in chosen],
            s=16,
            marker=mark,
            alpha=0.7,
            linewidths=0,
            label=kind,
        )
    if found:
        values = [max(v, 0.1) for one in found for v in (one.measured_ms, one.predicted_ms)]
        ends = np.asarray([min(values), max(values)])
        axis.plot(ends, ends, color=INK, linewidth=0.7)
        axis.fill_between(ends, 0.9 * ends, 1.1 * ends, color=FIT, alpha=0.1, linewidth=0)
        axis.legend(fontsize=8, frameon=False)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("measured ms")
    axis.set_ylabel("predicted ms")
    figure.tight_layout()
    return svg(figure)


def curves(step: StepModel, measured: Sequence[Measurement]) -> str:
    """The two costs as measured, with the fitted lines through them."""
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    plain = [
        one
        for one in measured
        if one.point.kind == "context" and not (one.point.cached or one.point.tiles) and one.values
    ]
    if plain:
        top = max(one.prompt_tokens for one in plain)
        line = np.geomspace(32, top, 80)
        left.plot(line, [step.context_ms(p, 0) for p in line], color=INK, linewidth=0.9)
        left.scatter(
            [one.prompt_tokens for one in plain],
            [one.value for one in plain],
            s=16,
            c=[HELD if one.point.held_out else FIT for one in plain],
            linewidths=0,
        )
    left.set(xscale="log", yscale="log", xlabel="prompt tokens, none cached", ylabel="ms a request")
    decode = [one for one in measured if one.point.kind == "decode" and one.values]
    contexts = sorted({one.point.prompt for one in decode if not one.point.held_out})
    for length in contexts[:: max(1, len(contexts) // 4)]:
        chosen = sorted(
            (one for one in decode if one.point.prompt == length), key=lambda one: one.batch
        )
        batches = np.geomspace(1, max(2.0, *(one.batch for one in chosen)), 60)
        each = float(np.mean([one.context_tokens / one.batch for one in chosen]))
        (drawn,) = right.plot(batches, [step.step_ms(b, b * each) for b in batches], linewidth=0.9)
        right.scatter(
            [one.batch for one in chosen],
            [one.value for one in chosen],
            s=16,
            color=drawn.get_color(),
            linewidths=0,
            label=f"context {length:,}",
        )
    right.set(xscale="log", xlabel="batch", ylabel="ms a step")
    if contexts:
        right.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    return svg(figure)


def controls(measured: Sequence[Measurement]) -> str:
    """A lone stream's step over the run: flat if the replica was steady and alone."""
    figure = Figure(figsize=(10, 2.2))
    axis = figure.subplots()
    points = [(at, one) for at, one in enumerate(measured) if one.control is not None]
    axis.plot(
        [at for at, _ in points],
        [one.control or 0.0 for _, one in points],
        marker="o",
        markersize=3,
        linewidth=0.7,
        color=FIT,
    )
    axis.set_ylim(0, 1.3 * max((one.control or 0.0 for _, one in points), default=1.0))
    axis.set_xlabel("measurement")
    axis.set_ylabel("lone step, ms")
    figure.tight_layout()
    return svg(figure)
