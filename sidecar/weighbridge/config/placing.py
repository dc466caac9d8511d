"""How replicas are chosen and slices assigned, and within what times."""

from pydantic import Field

from weighbridge.config.schema import Name, Priority, Section


class Workload(Section):
    """A wish about one tenant's replicas, in each model."""

    tenant: str = Field(description="The tenant; empty for requests that name none.")
    min_replicas: int = Field(0, ge=0, le=100_000, description="At least, as far as there are.")
    max_replicas: int = Field(100_000, ge=1, le=100_000, description="At most.")


class Objective(Section):
    """Times that are in time; what is left out is as for everybody."""

    ttft_ms: float | None = Field(
        None, ge=0.1, le=3_600_000, description="Time to the first token, ms."
    )
    tpot_ms: float | None = Field(
        None, ge=0.1, le=3_600_000, description="Time per token after it, ms."
    )
    priority: Priority | None = Field(
        None,
        description="Of requests that name this objective and no priority; never above their "
        "tenant's. For models and tenants it does nothing.",
    )


class Objectives(Section):
    """Objectives of some models and tenants, and of requests that name one."""

    models: dict[Name, Objective] = Field({}, description="By the model's name.")
    tenants: dict[Name, Objective] = Field(
        {}, description="By the tenant's name; they stand above a model's."
    )
    named: dict[Name, Objective] = Field(
        {},
        description="By what a request's `x-gateway-inference-objective` says. Times shorter than "
        "its tenant's are not taken.",
    )


class Placing(Section):
    """How a replica is chosen, and how slices are assigned. Times in ms are of the engine."""

    fallbacks: int = Field(
        2, ge=0, le=16, description="Replicas named after the chosen one, for Envoy's retries."
    )
    spill_margin_ms: float = Field(
        20.0, ge=0, le=1e9, description="Another replica must beat a session's home by this, ms..."
    )
    spill_margin_share: float = Field(
        0.5, ge=0, le=1, description="...and by this share of the wait there."
    )
    samples: int = Field(8, ge=0, le=64, description="Replicas looked at beside the slice's own.")
    cached_candidates: int = Field(
        4, ge=0, le=64, description="Replicas looked at for the prefix that they hold."
    )
    stall_weight: float = Field(
        4.0,
        ge=0,
        le=1000,
        description="What a sequence that a prefill stalls counts, beside a request that waits.",
    )
    promise_weight: float = Field(
        200.0,
        ge=0,
        le=100_000,
        description="How often more the harm to others counts where all of these are on promises, "
        "for a request that is not; a tenth of it while the replicas have time for all.",
    )
    room_weight: float = Field(
        60.0,
        ge=0,
        le=1000,
        description="How often a prefill counts, beside its own time, that another's cache would "
        "have saved, where a copy takes room that is short.",
    )
    reuse_s: float = Field(
        300.0,
        gt=0,
        le=1e6,
        description="Room is short where a cache is filled again within this time, s.",
    )
    degraded_factor: float = Field(
        2.0, ge=1, le=1000, description="A degraded replica's predicted time is multiplied by this."
    )
    adapter_ms: float = Field(500.0, ge=0, le=1e9, description="Time to load a LoRA adapter, ms.")
    objective_ttft_ms: float = Field(
        2_000.0, ge=1, le=1e9, description="Time to the first token that is in time, ms."
    )
    objective_ttft_ms_per_ktok: float = Field(
        150.0,
        ge=0,
        le=1e6,
        description="How much later it may come for each thousand tokens of the prompt, ms.",
    )
    objective_tpot_ms: float = Field(
        100.0, ge=0.1, le=1e9, description="Time per token after it that is in time, ms."
    )
    objectives_of: Objectives = Objectives()
    load_tolerance: float = Field(
        0.03,
        ge=0,
        le=100,
        description="How far above the mean utilisation the assigner lets a replica be.",
    )
    turn_gap_s: float = Field(
        30.0,
        gt=0,
        le=1e6,
        description="Time between a session's turns, s: after it a moved "
        "session pays for its prefix again.",
    )
    horizon_s: float = Field(
        60.0, gt=0, le=1e6, description="Time over which the price of a move is spread, s."
    )
    churn_share: float = Field(
        0.1, ge=0, le=1, description="Share of all capacity that a round's moves may cost."
    )
    heat_memory_s: float = Field(
        30.0, gt=0, le=1e6, description="Time after which a slice's old rate counts 1/e, s."
    )
    round_seconds: float = Field(
        5.0, gt=0, le=3600, description="Between two rounds of the assigner, s."
    )
    workloads: tuple[Workload, ...] = Field((), description="Wishes about single tenants.")
