"""From measurements to what calibration hands over: profile, coefficients, verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median
from typing import Any

from weighbridge.calibrate import profile as profiles
from weighbridge.calibrate.experiment import usable
from weighbridge.calibrate.fit import judge as judging
from weighbridge.calibrate.fit.judge import Judgement, Outside
from weighbridge.calibrate.fit.model import Model, fit_model, predicted
from weighbridge.calibrate.fit.points import Measurement
from weighbridge.calibrate.fit.regress import Coefficient
from weighbridge.calibrate.fit.replay import Limits
from weighbridge.calibrate.fit.saturate import capacity_mu_per_min
from weighbridge.calibrate.fit.steps import MS_PER_MINUTE, Costs, StepModel, mix_mu, reference_batch
from weighbridge.errors import RefusedError

SEED = 7


@dataclass(frozen=True, slots=True)
class About:
    """What the user and the replica tell beside the measurements."""

    name: str
    models: tuple[str, ...]
    engine: profiles.Engine
    max_batch: int
    """Most requests that the experiment put in a step: the engine's limit, or less."""
    day: date
    hardware: dict[str, Any]
    settings: dict[str, Any]
    reference: dict[str, Any] | None = None
    """The model's reference profile, if this replica is not it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is known at the end."""

    model: Model
    coefficients: list[Coefficient]
    judgement: Judgement
    outside: Outside
    costs: Costs
    batch: float
    capacity: float
    profile: dict[str, Any]
    measured: list[Measurement]

    def json(self) -> dict[str, Any]:
        """The JSON report."""
        return {
            **self.judgement.json(),
            "profile": self.profile,
            "coefficients": [
                {
                    "name": c.name,
                    "value": c.value,
                    "low": c.low,
                    "high": c.high,
                    "share": c.share,
                    "matters": c.matters,
                }
                for c in self.coefficients
            ],
            "capacity_mu_per_min": self.capacity,
            "reference_batch": self.batch,
            "first_token_outside_ms": self.outside.first_ms,
            "moe_batch": self.model.decode.moe_batch,
            "seconds": round(sum(one.seconds for one in self.measured), 1),
            "tokens": sum(one.tokens for one in self.measured),
            "measurements": [
                one.model_dump(exclude_defaults=True, exclude={"served"})
                | {
                    "value": one.value,
                    "error": one.error,
                    "predicted": predicted(self.model.step, one),
                }
                for one in self.measured
                if one.point.kind in ("context", "decode")
            ],
        }


def conclude(everything: Sequence[Measurement], about: About, notes: Sequence[str] = ()) -> Outcome:
    """Fits, judges and builds the profile."""
    used = usable(everything)
    model = fit_model(used)
    step = model.step
    engine = about.engine
    limits = Limits(engine.max_batch_size, engine.max_num_tokens, engine.kv_tokens)
    coefficients = model.intervals(SEED)
    batch = float(
        about.reference["reference_batch"]
        if about.reference
        else reference_batch(engine.kv_tokens, about.max_batch)
    )
    own = Costs.of(step, batch)
    costs = profiles.costs_of(about.reference) if about.reference else own
    around = judging.outside(step, used)
    capacity = capacity_of(used, costs)
    filled = reference_batch(engine.kv_tokens, about.max_batch)
    reached = capacity_of(used, Costs.of(step, filled)) / MS_PER_MINUTE
    judgement = judging.judge(
        coefficients,
        judging.held_out(step, used, limits),
        [*judging.warnings_of(model, everything, used), *judging.waste(reached), *notes],
    )
    built = profiles.build(
        name=about.name,
        models=list(about.models),
        step=step,
        prefill_base=prefill_base(used, step),
        costs=costs,
        capacity_mu_per_min=capacity,
        reference_batch=batch,
        is_reference=about.reference is None,
        engine=engine,
        origin=profiles.Origin("weighbridge calibrate", about.day, note(judgement, own, about)),
        hardware=about.hardware,
        settings=about.settings,
    )
    return Outcome(
        model=model,
        coefficients=coefficients,
        judgement=judgement,
        outside=around,
        costs=costs,
        batch=batch,
        capacity=capacity,
        profile=built,
        measured=list(used),
    )


def prefill_base(used: Sequence[Measurement], step: StepModel) -> float:
    """A step that computes a prompt alone, before the prompt's own weight, ms.

    Where the engine does not tell, it is taken to be what is seen beside others.
    """
    own = step.context_ms(0, 0)
    alone = [
        one.engine_first_ms - (step.context_ms(one.prompt_tokens, one.cached_tokens) - own)
        for one in used
        if one.point.kind == "single" and one.engine_first_ms is not None
    ]
    return max(0.0, median(alone)) if alone else step.decode_base + step.request


def capacity_of(used: Sequence[Measurement], costs: Costs) -> float:
    """From the saturated loop. RefusedError when there was none."""
    runs = [one for one in used if one.point.kind == "saturation" and one.served]
    if not runs:
        raise RefusedError("the replica was not measured at saturation: its capacity is not known")
    # Where it was overfull, it was measured with fewer clients as well.
    return max(capacity_mu_per_min(one, costs) for one in runs)


def note(judgement: Judgement, own: Costs, about: About) -> str:
    """What a reader of the profile should know."""
    text = f"held-out latencies off by {judgement.median_error:.1%} (median of the worst kind)"
    if about.reference is not None:
        ratio = mix_mu(own) / mix_mu(profiles.costs_of(about.reference))
        text += (
            f"; costs are those of the reference {about.reference['name']}, whose mix takes"
            f" {ratio:.2f} of its time here"
        )
    return text
