"""Whether a fitted profile may be trusted: held-out errors, uncertainty, structure left over."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Literal

import numpy as np

from weighbridge.calibrate.fit.model import Model, Part, predicted
from weighbridge.calibrate.fit.points import Measurement
from weighbridge.calibrate.fit.regress import Coefficient, Sample, fit
from weighbridge.calibrate.fit.replay import Limits, closed_loop
from weighbridge.calibrate.fit.steps import StepModel

Trust = Literal["trusted", "usable", "not trusted"]

GOOD_MEDIAN, FAIR_MEDIAN = 0.10, 0.20
GOOD_TAIL, FAIR_TAIL = 0.25, 0.50
GOOD_UNCERTAINTY, FAIR_UNCERTAINTY = 0.10, 0.30
STRUCTURE = 0.06
"""Median residual of a stretch of a dimension above which the model is wrong there, relative."""
STRUCTURE_BINS = 4
STEP_SHARE = 0.06
"""A sudden step is told when it is at least this part of the cost where it is."""
STEP_BETTER = 12.0
UNSTEADY = 0.06
FOREIGN_SHARE = 0.1
LEAST_HELD_OUT = 4
WASTED = 0.8


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One latency that the fit has not seen, ms."""

    what: str
    measured_ms: float
    predicted_ms: float
    step_ms: float
    """Of a lone stream: nothing is judged by less than that."""

    @property
    def error(self) -> float:
        """(measured - predicted) ÷ measured."""
        return (self.measured_ms - self.predicted_ms) / max(self.measured_ms, self.step_ms)


@dataclass(frozen=True, slots=True)
class Outside:
    """Time to first token beyond what the prompt's weight explains: base step, HTTP, network."""

    first_ms: float
    around_ms: float
    engine_ms: float | None
    """What of it the engine itself takes, where its records tell."""


@dataclass(slots=True)
class Judgement:
    """The verdict and what it rests on."""

    trust: Trust
    verdict: str
    warnings: list[str]
    median_error: float
    tail_error: float
    by_kind: dict[str, dict[str, float]]
    held_out: list[HeldOut] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """As the JSON report has it."""
        return {
            "trust": self.trust,
            "verdict": self.verdict,
            "warnings": self.warnings,
            "held_out": {
                "count": len(self.held_out),
                "median_error": self.median_error,
                "p90_error": self.tail_error,
                "by_kind": self.by_kind,
            },
        }


def outside(step: StepModel, measured: Sequence[Measurement]) -> Outside:
    """From requests alone that were kept for this."""
    first, engine = [], []
    for one in measured:
        if one.point.kind == "single" and not one.point.held_out:
            weight = step.context_ms(one.prompt_tokens, one.cached_tokens)
            first.append(one.value - weight)
            if one.engine_first_ms is not None:
                engine.append(one.engine_first_ms - weight)
    late = max(0.0, median(first)) if first else 0.0
    return Outside(
        first_ms=late,
        around_ms=max(0.0, late - step.step_ms(1, 0)),
        engine_ms=median(engine) if engine else None,
    )


def held_out(step: StepModel, measured: Sequence[Measurement], limits: Limits) -> list[HeldOut]:
    """All latencies that were kept out of the fit, with what the model foretells of them."""
    around = outside(step, measured)
    lone = step.step_ms(1, 0)
    found = []
    for one in measured:
        if not one.point.held_out:
            continue
        match one.point.kind:
            case "context" | "decode":
                found.append(HeldOut(one.point.kind, one.value, predicted(step, one), lone))
            case "single":
                found += single(step, one, around)
            case "loop":
                found += loop(step, one, limits, around)
            case "saturation":
                pass
    return found


def single(step: StepModel, one: Measurement, around: Outside) -> list[HeldOut]:
    """First token and end of a request alone.

    The first token by the engine's clock where it tells: a busy client adds what no model has.
    """
    lone = step.step_ms(1, 0)
    weight = step.context_ms(one.prompt_tokens, one.cached_tokens)
    steps = max(0.0, one.output_tokens - 1)
    whole = weight + steps * step.step_ms(1, one.prompt_tokens + one.output_tokens / 2)
    if around.engine_ms is not None and one.engine_first_ms is not None:
        first = HeldOut("first token", one.engine_first_ms, around.engine_ms + weight, lone)
    else:
        first = HeldOut("first token", one.value, around.first_ms + weight, lone)
    if one.total_ms is None:
        return [first]
    return [first, HeldOut("alone", one.total_ms, around.first_ms + whole, lone)]


def loop(step: StepModel, one: Measurement, limits: Limits, around: Outside) -> list[HeldOut]:
    """Every request of clients in a closed loop."""
    lone = step.step_ms(1, 0)
    turns: dict[int, list[Any]] = {}
    for served in sorted(one.served, key=lambda s: s.start_ms):
        turns.setdefault(served.client, []).append(served)
    order = sorted(turns)
    clients = [[(s.prompt, s.cached, s.output) for s in turns[number]] for number in order]
    latencies = closed_loop(step, limits, clients, around.around_ms)
    return [
        HeldOut("under load", served.end_ms - served.start_ms, wanted, lone)
        for number, told in zip(order, latencies, strict=True)
        for served, wanted in zip(turns[number], told, strict=True)
    ]


def structure(part: Part, dimensions: dict[str, list[float]]) -> list[str]:
    """Where along a dimension the residuals have one sign and size: the model is wrong there."""
    warnings = []
    relative = part.fit.relative
    for name, values in dimensions.items():
        if len(set(values)) < STRUCTURE_BINS or len(values) < 2 * STRUCTURE_BINS:
            continue
        order = np.argsort(values, kind="stable")
        for stretch in np.array_split(order, STRUCTURE_BINS):
            # The typical error of a stretch, and whether its points agree on the sign.
            inner = relative[stretch]
            off = float(np.median(inner))
            agree = float(np.mean(np.sign(inner) == np.sign(off)))
            low, high = values[stretch[0]], values[stretch[-1]]
            if abs(off) > STRUCTURE and agree >= 0.75 and low < high:
                warnings.append(
                    f"the model is {abs(off):.0%} too {'low' if off > 0 else 'high'} for {name}"
                    f" {low:,.0f} to {high:,.0f}"
                )
    return warnings


def sudden_step(part: Part) -> str | None:
    """A sudden step of the cost along the computed tokens, where one explains the residuals."""
    samples, plain, least = part.samples, part.fit.criterion, part.fit.least
    tokens = [sample.features[1] for sample in samples]
    levels = sorted(set(tokens))
    best: tuple[float, float, float, float] | None = None
    for below, above in pairwise(levels):
        for sign in (1.0, -1.0):
            more = [
                Sample(
                    (*sample.features, sign * float(sample.features[1] >= above)),
                    sample.value,
                    sample.error,
                )
                for sample in samples
            ]
            if (
                min(
                    sum(s.features[1] >= above for s in samples),
                    sum(s.features[1] < above for s in samples),
                )
                < 3
            ):
                continue
            fitted = fit(more, (*part.fit.names, "jump"), least)
            jump = fitted.values["jump"] * sign
            at_jump = [
                p - max(0.0, f.features[-1]) * fitted.values["jump"]
                for f, p in zip(more, fitted.predicted, strict=True)
                if f.features[1] == above
            ]
            size = abs(jump) / max(median(at_jump), 1e-9)
            criterion = fitted.criterion + math.log(len(samples))
            if (
                size >= STEP_SHARE
                and criterion < plain - STEP_BETTER
                and (best is None or criterion < best[0])
            ):
                best = (criterion, jump, below, above)
    if best is None:
        return None
    _, jump, below, above = best
    return (
        f"the cost of a prompt has a step of {jump:+.1f} ms between {below:,.0f} and {above:,.0f}"
        " computed tokens, which the model does not have"
    )


def steadiness(measured: Sequence[Measurement]) -> str | None:
    """Whether a lone stream's step stayed the same over the run."""
    controls = [one.control for one in measured if one.control is not None]
    if len(controls) < 4:
        return None
    usual = median(controls)
    quarter = max(1, len(controls) // 4)
    start, end = median(controls[:quarter]), median(controls[-quarter:])
    if abs(end - start) > UNSTEADY * usual:
        return (
            f"the replica's speed drifted: a lone step took {start:.2f} ms at first and"
            f" {end:.2f} ms at last"
        )
    wide = sum(abs(one - usual) > UNSTEADY * usual for one in controls) / len(controls)
    if wide > 0.25:
        return (
            f"the replica is unsteady: {wide:.0%} of lone steps are off by more than {UNSTEADY:.0%}"
        )
    return None


def waste(reached: float) -> list[str]:
    """Whether a saturated replica does much less, or more, than its steps add up to."""
    if WASTED < reached < 2 - WASTED:
        return []
    return [f"saturated, the replica does {reached:.0%} of the work that its steps add up to"]


def warnings_of(
    model: Model, everything: Sequence[Measurement], used: Sequence[Measurement]
) -> list[str]:
    """All that speaks against the fit, in sentences."""
    fitted = [one for one in used if not one.point.held_out and one.values]
    context = [one for one in fitted if one.point.kind == "context"]
    decode = [one for one in fitted if one.point.kind == "decode"]
    step = sudden_step(model.context)
    warnings = [step] if step else []
    warnings += structure(
        model.context,
        {
            "prompts of": [one.prompt_tokens - one.cached_tokens for one in context],
            "cached tokens of": [one.cached_tokens for one in context],
            "prompts beside a batch of": [one.batch for one in context],
        },
    )
    warnings += structure(
        model.decode,
        {
            "batches of": [one.batch for one in decode],
            "contexts of": [one.context_tokens / max(1.0, one.batch) for one in decode],
        },
    )
    for part, what in ((model.context, "prompts"), (model.decode, "steps")):
        off = float(np.percentile(np.abs(part.fit.relative), 90))
        if off > 2 * STRUCTURE:
            warnings.append(f"a tenth of the measured {what} are {off:.0%} or more off the model")
    unsteady = steadiness(used)
    warnings += [unsteady] if unsteady else []
    busy = sum(one.foreign > 0 for one in everything)
    if everything and busy / len(everything) > FOREIGN_SHARE:
        warnings.append(f"others used the replica in {busy} of {len(everything)} measurements")
    return warnings


def judge(
    coefficients: Sequence[Coefficient],
    found: list[HeldOut],
    warnings: list[str],
) -> Judgement:
    """One line on whether the profile may be trusted."""
    kinds = sorted({one.what for one in found})
    by_kind = {
        kind: summary([abs(one.error) for one in found if one.what == kind]) for kind in kinds
    }
    # Every kind counts alike, however many latencies it has.
    medians = [by_kind[kind]["median"] for kind in kinds]
    tails = [by_kind[kind]["p90"] for kind in kinds]
    middle = max(medians, default=math.inf)
    tail = max(tails, default=math.inf)
    loose = [c for c in coefficients if c.matters and c.uncertainty > GOOD_UNCERTAINTY]
    very_loose = [c for c in loose if c.uncertainty > FAIR_UNCERTAINTY]
    reasons = list(warnings)
    reasons += [f"{c.name} is known to ±{c.uncertainty:.0%} only" for c in loose]
    if len(found) < LEAST_HELD_OUT:
        reasons.append("too few latencies were held out to judge by")
    if middle > GOOD_MEDIAN:
        reasons.append(f"held-out latencies are off by {middle:.0%} (median of the worst kind)")
    bad = middle > FAIR_MEDIAN or tail > FAIR_TAIL or very_loose or len(found) < LEAST_HELD_OUT
    good = middle <= GOOD_MEDIAN and tail <= GOOD_TAIL and not reasons
    trust: Trust = "not trusted" if bad else "trusted" if good else "usable"
    errors = f"held-out latencies off by {middle:.1%} in the median, {tail:.1%} at p90"
    if math.isinf(middle):
        errors = "nothing was held out"
    because = "".join(f"; {reason}" for reason in reasons[:1])
    because += f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    opening = {
        "trusted": "May be trusted",
        "usable": "Usable with care",
        "not trusted": "Must not be trusted",
    }[trust]
    return Judgement(
        trust=trust,
        verdict=f"{opening}: {errors}{because}.",
        warnings=reasons,
        median_error=middle,
        tail_error=tail,
        by_kind=by_kind,
        held_out=found,
    )


def summary(errors: Sequence[float]) -> dict[str, float]:
    """Median and 90th percentile of relative errors."""
    return {
        "count": float(len(errors)),
        "median": float(np.median(errors)),
        "p90": float(np.percentile(errors, 90)),
    }
