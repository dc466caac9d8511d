"""The model that is fitted: what an engine's iterations cost, ms, and a profile's coefficients."""

import math
from dataclasses import dataclass

MU_PER_MS_OF_REFERENCE = 1.0
MS_PER_MINUTE = 60_000.0


@dataclass(frozen=True, slots=True)
class StepModel:
    """Times of one engine, ms of exclusive engine time.

    An iteration computes context (prompts, or parts of them) and one token for each generating
    request. A request's own share of it is what the iteration would be shorter by without it.
    """

    prefill_per_tok: float
    """One context token."""
    prefill_per_tok2_e6: float
    """Attention: a million tokens squared, over end² - start² of what is computed."""
    request: float
    """By how much an iteration's base with context exceeds that with generating requests.

    The weights are read once for both, and of experts those that both touch: beside a batch, a
    request adds what the batch has not read already.
    """
    decode_base: float
    """An iteration with generating requests, before any of them."""
    decode_per_seq: float
    """One generating request."""
    decode_per_ktok: float
    """Reading 1,000 tokens of context."""
    moe: float = 0.0
    """Mixture of experts: what reading every expert adds to an iteration."""
    moe_batch: float = 1.0
    """Generating requests at which 63 % of `moe` is reached."""
    image_per_tile: float = 0.0
    """Encoding one image tile."""

    def experts_ms(self, batch: float) -> float:
        """What the experts that a batch touches add to an iteration."""
        return self.moe * -math.expm1(-batch / self.moe_batch)

    def request_ms(self, batch: float) -> float:
        """What context adds to an iteration of a batch before its first token."""
        return max(0.0, self.request - self.experts_ms(batch))

    def step_ms(self, batch: float, context_tokens: float) -> float:
        """An iteration in which `batch` requests with so much context together generate."""
        return (
            self.decode_base
            + self.experts_ms(batch)
            + self.decode_per_seq * batch
            + self.decode_per_ktok * context_tokens / 1000
        )

    def context_ms(
        self, prompt: float, cached: float, tiles: float = 0.0, batch: float = 0.0
    ) -> float:
        """What computing a prompt, of which a part is cached, takes from the batch beside it."""
        return (
            self.request_ms(batch)
            + self.prefill_per_tok * (prompt - cached)
            + self.prefill_per_tok2_e6 * (prompt * prompt - cached * cached) / 1e6
            + self.image_per_tile * tiles
        )

    def scaled(self, factor: float) -> "StepModel":
        """The same engine with every time multiplied."""
        return StepModel(
            prefill_per_tok=self.prefill_per_tok * factor,
            prefill_per_tok2_e6=self.prefill_per_tok2_e6 * factor,
            request=self.request * factor,
            decode_base=self.decode_base * factor,
            decode_per_seq=self.decode_per_seq * factor,
            decode_per_ktok=self.decode_per_ktok * factor,
            moe=self.moe * factor,
            moe_batch=self.moe_batch,
            image_per_tile=self.image_per_tile * factor,
        )


@dataclass(frozen=True, slots=True)
class Costs:
    """A profile's cost coefficients, MU (the terms of the design's first section)."""

    prefill_per_tok: float
    prefill_per_tok2_e6: float
    decode_per_tok: float
    decode_per_ktok_ctx: float
    image_per_tile: float = 0.0
    audio_per_second: float = 0.0
    overhead: float = 0.0

    @classmethod
    def of(cls, step: StepModel, reference_batch: float, mu_per_ms: float = 1.0) -> "Costs":
        """The step's base is shared by the reference batch; times become MU."""
        shared = (step.decode_base + step.experts_ms(reference_batch)) / reference_batch
        return cls(
            prefill_per_tok=step.prefill_per_tok * mu_per_ms,
            prefill_per_tok2_e6=step.prefill_per_tok2_e6 * mu_per_ms,
            decode_per_tok=(shared + step.decode_per_seq) * mu_per_ms,
            decode_per_ktok_ctx=step.decode_per_ktok * mu_per_ms,
            image_per_tile=step.image_per_tile * mu_per_ms,
            overhead=step.request_ms(reference_batch) * mu_per_ms,
        )

    def mu(self, prompt: float, cached: float, output: float, tiles: float = 0.0) -> float:
        """The cost of a request, MU."""
        return (
            self.overhead
            + self.prefill_per_tok * (prompt - cached)
            + self.prefill_per_tok2_e6 * (prompt * prompt - cached * cached) / 1e6
            + output
            * (self.decode_per_tok + self.decode_per_ktok_ctx * (prompt + output / 2) / 1e3)
            + self.image_per_tile * tiles
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of request of a mix."""

    prompt: int
    output: int


REFERENCE_MIX = (Shape(256, 128), Shape(512, 384), Shape(1024, 256), Shape(4096, 256))
"""What a replica is saturated with, in equal shares; MU of two hardwares are level on it."""


def mix_mu(costs: Costs) -> float:
    """Mean cost of a request of the reference mix, none of it cached, MU."""
    return sum(costs.mu(shape.prompt, 0, shape.output) for shape in REFERENCE_MIX) / len(
        REFERENCE_MIX
    )


def normalise(own: Costs, reference: Costs | None) -> float:
    """MU per ms of this engine: the reference mix costs what it costs on the reference hardware.

    `own` holds the engine's own times (1 MU per ms). Without a reference, the engine is its
    model's reference.
    """
    return MU_PER_MS_OF_REFERENCE if reference is None else mix_mu(reference) / mix_mu(own)


def reference_batch(kv_tokens: float, max_batch_size: float) -> float:
    """Sequences in a step at saturation: as many of the mix as the cache and the batch hold.

    So a reference replica's capacity comes out at about 60,000 MU per minute.
    """
    worst = sum(shape.prompt + shape.output for shape in REFERENCE_MIX) / len(REFERENCE_MIX)
    return float(max(1, min(int(max_batch_size), int(kv_tokens / worst))))
