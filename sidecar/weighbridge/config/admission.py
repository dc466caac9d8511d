"""Tenants, their promises, and the queues that keep them."""

from pydantic import Field

from weighbridge.config.schema import Name, Priority, Section


class Queue(Section):
    """What may run and what may wait before a model's replicas."""

    window_ms: float = Field(
        3_000,
        ge=1,
        le=1e9,
        description="Decode in flight that counts as full, ms of the replicas' capacity. An "
        "answer, however long, counts as its slot's part of it: a full batch is full.",
    )
    first_token_share: float = Field(
        0.7,
        ge=0.01,
        le=10,
        description="Share of its time to the first token that is in time, that a request's wait "
        "at a replica and its prefill may take; half of it beside guarantees, and down to four "
        "tenths of it as the queue here fills. What no replica answers so soon waits here, where "
        "others may pass it.",
    )
    kv_share: float = Field(
        1.0, ge=0.01, le=10, description="Share of the replicas' KV tokens that counts as full."
    )
    queue_requests: int = Field(4096, ge=0, le=1 << 20, description="Requests that may wait.")
    queue_window_ms: float = Field(
        250,
        ge=1,
        le=1e9,
        description="MU that may wait, ms of the replicas' capacity, where more than four "
        "requests for each replica do: under lasting overload what is served has waited about "
        "so long. Of `batch`, half of `max_wait_ms` may wait, if that is more.",
    )
    max_wait_ms: int = Field(30_000, ge=0, le=110_000, description="Longest wait, ms.")
    min_share: float = Field(
        0.05, ge=0, le=0.25, description="Least share of what is served for each waiting priority."
    )
    unknown_tenants: int = Field(
        4096, ge=0, le=1 << 20, description="Names not listed below that are kept apart."
    )


class Tenant(Section):
    """What a tenant was promised and may ask for, of each model."""

    guaranteed_mu_per_min: float = Field(
        0, ge=0, le=1e12, description="MU a minute that it gets whatever others do."
    )
    burst_mu: float | None = Field(
        None, gt=0, le=1e12, description="MU at once within the promise; else ten seconds of it."
    )
    weight: float = Field(
        1, ge=0.001, le=1000, description="Its part of what promises leave over, beside others'."
    )
    priority: Priority = Field(
        "standard", description="What is served first; a request may ask for less, never for more."
    )
    max_request_mu: float | None = Field(
        None, gt=0, description="Most MU that one request may be weighed at."
    )
    max_queued: int | None = Field(
        None, ge=0, le=1 << 20, description="Most requests that it may have waiting."
    )


class Admission(Section):
    """Tenants, their promises, and the queues that keep them."""

    enabled: bool = Field(True, description="Off: everything runs at once.")
    cut_sheddable: bool = Field(
        False,
        description="Requests of `sheddable` that no replica has begun to answer end with 429 "
        "`preempted` where a tenant's guarantee would miss its time to first token behind them.",
    )
    queue: Queue = Queue()
    tenants: dict[Name, Tenant] = Field(
        {}, max_length=10_000, description="By name, as header or claim has it."
    )
    default_tenant: Tenant = Field(
        Tenant(), description="For requests that name no tenant, or one that is not listed."
    )
