"""What the core tells as JSON, and what the status page adds: the keys, and what they hold.

`_core.pyi` gives these as text; a test holds the shapes against a live core.
"""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

State = Literal["healthy", "degraded", "ejected", "probing", "draining"]


class Histogram(TypedDict):
    """Cumulative counts up to each bound, s; the last has none."""

    buckets: list[tuple[float | None, int]]
    sum_s: float


class Standing(TypedDict):
    """How a replica's health was judged."""

    wellness: float
    cause: str
    speed: float | None


class Foreign(TypedDict):
    """Work at a replica that came past this sidecar."""

    requests: int
    mu: float
    kv_tokens: int


class Served(TypedDict):
    """What a replica was given since start."""

    requests: int
    mu: float
    prompt_tokens: int
    cached_tokens: int
    failures: int


class Replica(TypedDict):
    """One replica."""

    endpoint: str
    model: str
    domain: str
    state: State
    share: float
    health: Standing
    requests: int
    prefill_mu: float
    decode_mu: float
    kv_tokens: int
    foreign: Foreign
    kv_capacity_tokens: int
    capacity_mu_per_min: float
    cached_blocks: int
    served: Served


class ModelReport(TypedDict):
    """One model's slices, and the demand on them."""

    slices: int
    homes: int
    mu_per_s: float
    highest: float
    mean: float


class Assignment(TypedDict):
    """The assignment in force, and what the assigner has done."""

    number: int
    rounded_at_ms: int
    models: dict[str, ModelReport]
    moves: dict[str, int]


class Waiting(TypedDict):
    """What waits of one priority."""

    requests: int
    mu: float


class Tenant(TypedDict):
    """One tenant at one model's door."""

    tenant: str
    running: int
    waiting: int
    limit_mu_per_min: float
    remaining_mu: float
    billed_mu: float
    started: int
    waited: int
    shed: int


class Door(TypedDict):
    """Admission of one model."""

    running: int
    running_mu: float
    promised_mu: float
    open: bool
    waiting: dict[str, Waiting]
    drain_mu_per_ms: float
    tenants: list[Tenant]


class TenantUsage(TypedDict):
    """What one tenant took of one model since start."""

    tenant: str
    model: str
    requests: int
    mu: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class HealthCounts(TypedDict):
    """What judging health has come to."""

    changes: dict[str, dict[str, int]]
    restarts: int
    judged_at_us: int


class CoreStatus(TypedDict):
    """`Core.status()`."""

    now_us: int
    pool: int
    streams: int
    assignment: Assignment
    replicas: list[Replica]
    reasons: dict[str, int]
    decision: Histogram
    measures: dict[str, dict[str, Any]]
    errors: dict[str, int]
    admission: dict[str, Door]
    tenants: list[TenantUsage]
    health: HealthCounts
    observe_only: bool
    observed: dict[str, float]
    usage_records_lost: int
    spans_lost: int
    reaped: int


class Signal(TypedDict):
    """One model's autoscaling signal; MU are per minute."""

    placed_mu: float
    queued_mu: float
    capacity_mu: float
    promised_mu: float
    replica_mu: float
    target_utilisation: float
    replicas_by_mu: float
    replicas_by_kv: float
    open_replicas: int
    desired_replicas: int
    limited_by: str


class Status(CoreStatus):
    """The page `/status`; the last keys are those of a running service."""

    version: str
    settings: dict[str, Any]
    autoscaling: dict[str, Signal]
    runtime: dict[str, Any]
    drift: NotRequired[dict[str, dict[str, Any]]]
    discovery: NotRequired[dict[str, Any]]
    spans: NotRequired[dict[str, int]]
    loops: NotRequired[Mapping[str, int]]
    config: NotRequired[dict[str, Any]]
    polls: NotRequired[Mapping[str, int]]


class Decision(TypedDict):
    """One of `Core.decisions()`."""

    number: int
    request_id: str
    session_source: str
    session: str
    tenant: str
    model: str
    replica: str
    fallbacks: list[str]
    reason: str
    steered: bool
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    mu: float
    prefill_mu: float
    decode_mu: float
    wait_ms: float
    pool: int
    at_us: int
