"""Chooses what to measure next: where the model is least certain for the time it costs."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weighbridge.calibrate.fit.model import DECODE_TERMS, MOE_TERM, Model, Part, with_experts
from weighbridge.calibrate.fit.points import Measurement, Point
from weighbridge.calibrate.fit.regress import MATTERS, MODEL_ERROR, Sample, covariance, shares
from weighbridge.calibrate.fit.steps import REFERENCE_MIX, StepModel
from weighbridge.calibrate.measure import (
    LEAD_TOKENS,
    SKIP,
    TRAINS,
    WINDOW,
    Expected,
    probe_output,
    train_length,
)

LEAST_PROMPT = 64
LEAST_CONTEXT = 48
CACHED_SHARES = (0.5, 0.9)
BESIDE = 8
WANTED_UNCERTAINTY = 0.03
LEAST_POINTS = {"context": 10, "decode": 10}
MOST_POINTS = {"context": 40, "decode": 32}
HELD_OUT_EVERY = 4
FILL_EVERY = 3
FILL_TOKENS = 200_000
"""Prompt tokens that one `decode` point may cost."""
KV_SHARE = 0.8
"""Of the cache, that one point may fill."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What the replica can be asked."""

    max_prompt: int
    max_batch: int
    max_num_tokens: int
    kv_tokens: int
    images: bool = False
    tells_cached: bool = True

    def contexts(self) -> list[int]:
        """Prompt lengths, about doubling, the longest last."""
        count = max(2, round(math.log2(self.max_prompt / LEAST_PROMPT)) + 1)
        return sorted({int(v) for v in np.geomspace(LEAST_PROMPT, self.max_prompt, count)})

    def batches(self) -> list[int]:
        """Batch sizes, doubling up to the largest."""
        powers = {1 << k for k in range(self.max_batch.bit_length()) if 1 << k <= self.max_batch}
        return sorted(powers | {self.max_batch})

    def holds(self, batch: int, prompt: int) -> bool:
        """Whether so many requests of this length fit and are not too much to send."""
        whole = batch * (prompt + WINDOW + SKIP + 64)
        return whole <= KV_SHARE * self.kv_tokens and batch * prompt <= FILL_TOKENS


def context_candidates(domain: Domain) -> list[Point]:
    """All `context` points on the grid."""
    points = []
    for prompt in domain.contexts():
        points.append(Point(kind="context", prompt=prompt))
        if domain.tells_cached and prompt >= 512:
            points += [
                Point(kind="context", prompt=prompt, cached=int(prompt * share))
                for share in CACHED_SHARES
            ]
        if domain.max_batch >= BESIDE and prompt <= domain.max_prompt // 4:
            points.append(Point(kind="context", prompt=prompt, batch=BESIDE))
    if domain.images:
        points += [
            Point(kind="context", prompt=LEAST_PROMPT * 2, tiles=tiles) for tiles in (1, 2, 4)
        ]
    return points


def decode_candidates(domain: Domain) -> list[Point]:
    """All `decode` points on the grid."""
    lengths = [LEAST_CONTEXT, *(length for length in domain.contexts() if length >= 256)]
    return [
        Point(kind="decode", batch=batch, prompt=length)
        for batch in domain.batches()
        for length in lengths
        if domain.holds(batch, length)
    ]


def opening(domain: Domain) -> list[Point]:
    """The first points: the corners and the middle of what can be asked."""
    lengths = domain.contexts()
    middle = lengths[len(lengths) // 2]
    context = [Point(kind="context", prompt=p) for p in (lengths[0], middle, lengths[-1])]
    context.append(Point(kind="context", prompt=lengths[-2]))
    if domain.tells_cached:
        context.append(Point(kind="context", prompt=lengths[-1], cached=int(lengths[-1] * 0.9)))
    if domain.images:
        context += [
            Point(kind="context", prompt=128, tiles=1),
            Point(kind="context", prompt=128, tiles=4),
        ]
    decode = []
    for batch in sorted({1, max(1, int(math.sqrt(domain.max_batch))), domain.max_batch}):
        fitting = [p for p in decode_candidates(domain) if p.batch == batch]
        decode += [fitting[0], fitting[-1]] if len(fitting) > 1 else fitting
    return [point for pair in zip_longest(context, decode) for point in pair]


def zip_longest(first: list[Point], second: list[Point]) -> list[list[Point]]:
    """The two lists in turn, to the end of the longer."""
    longest = max(len(first), len(second))
    return [[*first[at : at + 1], *second[at : at + 1]] for at in range(longest)]


def next_point(
    domain: Domain,
    model: Model,
    measured: Sequence[Measurement],
    expected: Expected,
    chance: random.Random,
    *,
    excluded: frozenset[Point] = frozenset(),
) -> Point | None:
    """The next point of the experiment, or None when all that matters is certain enough.

    Mostly the point whose prediction is least certain per second spent; in between one that is
    far from all measured ones, where the model may be wrong and not know it; and one at random
    that is kept out of the fit. `excluded` points could not be measured.
    """
    fitted = [one for one in measured if not one.point.held_out]
    counts = {kind: sum(one.point.kind == kind for one in fitted) for kind in ("context", "decode")}
    held = sum(one.point.held_out and one.point.kind in counts for one in measured)
    total = sum(counts.values())
    if (held + 1) * HELD_OUT_EVERY <= total:
        return held_out(domain, chance)
    open_kinds = [kind for kind in counts if not is_enough(kind, counts[kind], model)]
    if not open_kinds:
        return None
    kind = min(open_kinds, key=lambda name: counts[name])
    candidates = context_candidates(domain) if kind == "context" else decode_candidates(domain)
    candidates = [point for point in candidates if point not in excluded]
    seen = [one.point for one in fitted if one.point.kind == kind]
    # Where all of the grid is measured: again where it is least certain.
    fresh = [point for point in candidates if point not in seen] or candidates
    if not fresh:
        return None
    if counts[kind] % FILL_EVERY == FILL_EVERY - 1:
        return max(fresh, key=lambda point: distance(point, seen))
    part = model.context if kind == "context" else model.decode
    spread = covariance(part.samples, part.fit)
    return max(fresh, key=lambda point: gain(point, part, model.step, spread, expected))


def is_enough(kind: str, count: int, model: Model) -> bool:
    """Whether a kind's coefficients are known well enough, or have had their share."""
    if count < LEAST_POINTS[kind]:
        return False
    if count >= MOST_POINTS[kind]:
        return True
    part = model.context if kind == "context" else model.decode
    spread = np.sqrt(np.diag(covariance(part.samples, part.fit)))
    return all(
        share < MATTERS or 2 * error <= WANTED_UNCERTAINTY * value
        for share, error, value in zip(
            shares(part.samples, part.fit), spread, part.fit.solution, strict=True
        )
    )


def held_out(domain: Domain, chance: random.Random) -> Point:
    """A point anywhere in the domain, off the grid, that the fit does not see."""
    length = int(math.exp(chance.uniform(math.log(LEAST_PROMPT), math.log(domain.max_prompt))))
    if chance.random() < 0.5:
        cached = int(length * chance.choice((0.0, 0.0, 0.4, 0.8))) if domain.tells_cached else 0
        return Point(kind="context", prompt=length, cached=cached, held_out=True)
    batch = round(math.exp(chance.uniform(0, math.log(domain.max_batch))))
    while not domain.holds(batch, length):
        length //= 2
    return Point(kind="decode", prompt=max(length, LEAST_CONTEXT), batch=batch, held_out=True)


def distance(point: Point, seen: Sequence[Point]) -> float:
    """How far from the nearest measured point, in doublings."""
    return min((apart(point, other) for other in seen), default=math.inf)


def apart(one: Point, other: Point) -> float:
    """Distance of two points of a kind, in doublings of length and batch."""
    return math.hypot(
        math.log2(max(1, one.prompt) / max(1, other.prompt)),
        math.log2(one.batch / other.batch),
        math.log2((1 + one.prompt - one.cached) / (1 + other.prompt - other.cached)),
        one.tiles - other.tiles,
    )


def gain(
    point: Point,
    part: Part,
    step: StepModel,
    spread: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    expected: Expected,
) -> float:
    """Variance of the prediction, relative, for each second that the point costs."""
    features = np.asarray(features_of(point, part))
    value = max(float(features @ part.fit.solution), part.fit.least, 1e-9)
    variance = float(features @ spread @ features) / (MODEL_ERROR * value) ** 2
    return variance / (0.3 + cost_ms(point, step, expected) / 1000)


def features_of(point: Point, part: Part) -> tuple[float, ...]:
    """What the regression would see of a point."""
    if point.kind == "context":
        prompt, cached = float(point.prompt), float(point.cached)
        features = (1.0, prompt - cached, (prompt * prompt - cached * cached) / 1e6)
        return (*features, float(point.tiles)) if len(part.fit.names) > 3 else features
    context = point.batch * (point.prompt + WINDOW / 2)
    plain = Sample((1.0, float(point.batch), context / 1000), 0.0, 0.0)
    if part.moe_batch is None:
        return plain.features
    assert part.fit.names == (*DECODE_TERMS, MOE_TERM)  # noqa: S101
    return with_experts(plain, part.moe_batch).features


def cost_ms(point: Point, step: StepModel, expected: Expected) -> float:
    """About how long a point takes, ms of the replica's clock."""
    match point.kind:
        case "context":
            cost = step.context_ms(point.prompt, point.cached, point.tiles, point.batch)
            sized = sized_for(point, step, expected)
            length = train_length(sized)
            tokens = probe_output(sized, length, point.prompt - point.cached)
            first = step.context_ms(point.cached, 0) if point.cached else 0.0
            return first + tokens * step.step_ms(point.batch, 0) + TRAINS * length * cost
        case "decode":
            context = point.batch * (point.prompt + WINDOW / 2)
            prefill = point.batch * step.context_ms(point.prompt, 0)
            return prefill + (WINDOW + LEAD_TOKENS) * step.step_ms(point.batch, context)
        case "single":
            context = step.context_ms(point.prompt, 0)
            return context + point.output * step.step_ms(1, point.prompt) + expected.round_trip_ms
        case "loop" | "saturation":
            return sum(loop_ms(shape.prompt, shape.output, point, step) for shape in REFERENCE_MIX)


def loop_ms(prompt: int, output: int, point: Point, step: StepModel) -> float:
    """What one shape of a closed loop's mix takes: its share of the requests, at full batch."""
    requests = point.batch * point.output / len(REFERENCE_MIX)
    each = step.step_ms(point.batch, point.batch * (prompt + output / 2)) / point.batch
    return requests * (step.context_ms(prompt, 0) + output * each)


def sized_for(point: Point, step: StepModel, expected: Expected) -> Expected:
    """What a measurement of this point may expect."""
    return Expected(
        step_ms=step.step_ms(max(1, point.batch), 0),
        request_ms=step.context_ms(point.prompt, point.cached, point.tiles, point.batch),
        round_trip_ms=expected.round_trip_ms,
        scatter_ms=expected.scatter_ms,
        max_num_tokens=expected.max_num_tokens,
        kv_tokens=expected.kv_tokens,
        noise_ms=expected.noise_ms,
        growth_ms=step.decode_per_ktok / 1000,
    )
