"""Measurements to a fitted step model: which terms there are, and what each is fitted on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from scipy.optimize import minimize_scalar

from weighbridge.calibrate.fit.points import Measurement
from weighbridge.calibrate.fit.regress import Coefficient, Fit, Sample, coefficients, fit, shares
from weighbridge.calibrate.fit.steps import StepModel

CONTEXT_TERMS = ("request", "prefill_per_tok", "prefill_per_tok2_e6")
IMAGE_TERM = "image_per_tile"
DECODE_TERMS = ("decode_base", "decode_per_seq", "decode_per_ktok")
MOE_TERM = "moe"
MOE_BATCHES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0)
LEAST_MOE_SAMPLES = 8
"""Five coefficients want more points than that to be told apart."""
CLEARLY_BETTER = 10.0
"""Difference of the information criterion at which a further term is believed."""
BASE_ROUNDS = 8
LEAST_SHARE = 0.05
"""A further term that explains less than this of any value is not worth having."""


@dataclass(frozen=True, slots=True)
class Part:
    """One regression: its samples and what came out."""

    samples: tuple[Sample, ...]
    fit: Fit
    moe_batch: float | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """Both regressions and the step model that they make."""

    step: StepModel
    context: Part
    decode: Part

    def intervals(self, seed: int) -> list[Coefficient]:
        """Every coefficient with its uncertainty."""
        return [
            *coefficients(self.context.samples, self.context.fit, seed),
            *coefficients(self.decode.samples, self.decode.fit, seed + 1),
        ]


def context_sample(measured: Measurement, images: bool, request: float = 1.0) -> Sample:
    """A `context` measurement as the regression sees it; `request` is the share of that term."""
    prompt, cached = measured.prompt_tokens, measured.cached_tokens
    features = (request, prompt - cached, (prompt * prompt - cached * cached) / 1e6)
    return Sample(
        features=(*features, measured.tiles) if images else features,
        value=measured.value,
        error=measured.error,
    )


def decode_sample(measured: Measurement) -> Sample:
    """A `decode` measurement as the regression sees it."""
    return Sample(
        features=(1.0, measured.batch, measured.context_tokens / 1000),
        value=measured.value,
        error=measured.error,
    )


def fit_context(measured: Sequence[Measurement], decode: Part) -> Part:
    """What prompts cost, beside batches that have read what `decode` says."""
    images = any(one.tiles for one in measured)
    names = (*CONTEXT_TERMS, IMAGE_TERM) if images else CONTEXT_TERMS
    # Nothing that a replica does takes less than a step.
    steps = [one.control for one in measured if one.control is not None]
    least = median(steps) if steps else 0.0
    samples = tuple(context_sample(one, images) for one in measured)
    part = Part(samples, fit(samples, names, least))
    experts = experts_of(decode)
    if experts is None:
        return part
    # How much of a request's base a batch has read already depends on that base: a few rounds.
    request = max(least, part.fit.values["request"])
    for _ in range(BASE_ROUNDS):
        alone = replace(experts, request=request)
        samples = tuple(
            context_sample(one, images, alone.request_ms(one.batch) / max(request, 1e-9))
            for one in measured
        )
        part = Part(samples, fit(samples, names, least))
        request = part.fit.values["request"]
    return part


def experts_of(decode: Part) -> StepModel | None:
    """A step model with nothing but the experts; None of a dense model."""
    if decode.moe_batch is None:
        return None
    return StepModel(
        prefill_per_tok=0.0,
        prefill_per_tok2_e6=0.0,
        request=0.0,
        decode_base=0.0,
        decode_per_seq=0.0,
        decode_per_ktok=0.0,
        moe=decode.fit.values[MOE_TERM],
        moe_batch=decode.moe_batch,
    )


def fit_decode(measured: Sequence[Measurement], *, exact: bool = False) -> Part:
    """What generating costs; with a term for experts if the measurements ask for it."""
    samples = tuple(decode_sample(one) for one in measured)
    plain = Part(samples, fit(samples, DECODE_TERMS, exact=exact))
    if len(samples) < LEAST_MOE_SAMPLES:
        return plain
    coarse = min(
        (experts_part(samples, moe_batch, exact=exact) for moe_batch in MOE_BATCHES),
        key=lambda part: part.fit.criterion,
    )
    # The batch at which it saturates is one coefficient more.
    if coarse.fit.criterion + math.log(len(samples)) > plain.fit.criterion - CLEARLY_BETTER:
        return plain
    if shares(coarse.samples, coarse.fit)[-1] < LEAST_SHARE:
        return plain
    middle = math.log(coarse.moe_batch or 1.0)
    found = minimize_scalar(
        lambda log_batch: experts_part(samples, math.exp(log_batch), exact=exact).fit.criterion,
        bounds=(middle - 0.7, middle + 0.7),
        method="bounded",
        options={"xatol": 0.02},
    )
    return experts_part(samples, math.exp(float(found.x)), exact=exact)


def experts_part(samples: Sequence[Sample], moe_batch: float, *, exact: bool) -> Part:
    """The regression with the saturating term."""
    more = tuple(with_experts(sample, moe_batch) for sample in samples)
    return Part(more, fit(more, (*DECODE_TERMS, MOE_TERM), exact=exact), moe_batch)


def with_experts(sample: Sample, moe_batch: float) -> Sample:
    """The sample with the saturating term as a further feature."""
    batch = sample.features[1]
    features = (*sample.features, float(-np.expm1(-batch / moe_batch)))
    return Sample(features, sample.value, sample.error)


def fit_model(measured: Sequence[Measurement]) -> Model:
    """Fits everything on what is there for fitting; held-out points are not."""
    usable = [one for one in measured if not one.point.held_out and one.values]
    decode = fit_decode([one for one in usable if one.point.kind == "decode"])
    context = fit_context([one for one in usable if one.point.kind == "context"], decode)
    values = context.fit.values | decode.fit.values
    step = StepModel(
        prefill_per_tok=values["prefill_per_tok"],
        prefill_per_tok2_e6=values["prefill_per_tok2_e6"],
        request=values["request"],
        decode_base=values["decode_base"],
        decode_per_seq=values["decode_per_seq"],
        decode_per_ktok=values["decode_per_ktok"],
        moe=values.get(MOE_TERM, 0.0),
        moe_batch=decode.moe_batch or 1.0,
        image_per_tile=values.get(IMAGE_TERM, 0.0),
    )
    return Model(step, context, decode)


def predicted(step: StepModel, measured: Measurement) -> float:
    """What a model foretells of a `context` or `decode` measurement, ms."""
    if measured.point.kind == "decode":
        return step.step_ms(measured.batch, measured.context_tokens)
    return step.context_ms(
        measured.prompt_tokens, measured.cached_tokens, measured.tiles, measured.batch
    )
