"""The autoscaling signal: how many replicas of each model its present demand asks for, and why."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from weighbridge.config.fleet import Autoscaling
from weighbridge.shapes import CoreStatus, Replica

Limit = Literal["mu", "kv", "min_replicas", "max_replicas"]
# States in which a replica takes work.
OPEN_STATES = frozenset({"healthy", "degraded", "probing"})


@dataclass(frozen=True, slots=True)
class Signal:
    """What one model's demand asks for. MU are per minute."""

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
    limited_by: Limit


def signals(
    status: CoreStatus, settings: Autoscaling, promised_mu: float = 0.0
) -> dict[str, Signal]:
    """The signal of every model that has replicas, or requests that ask for it.

    So much is promised of each model that has replicas, MU a minute.
    """
    by_model: dict[str, list[Replica]] = {}
    for replica in status["replicas"]:
        by_model.setdefault(replica["model"], []).append(replica)
    reports = status["assignment"]["models"]
    doors = status["admission"]
    return {
        model: signal(
            by_model.get(model, ()),
            reports[model]["mu_per_s"] * 60 if model in reports else 0.0,
            sum(queue["mu"] for queue in doors[model]["waiting"].values()) if model in doors else 0,
            settings,
            promised_mu if model in by_model else 0.0,
        )
        for model in sorted({*by_model, *reports, *doors})
    }


def signal(
    replicas: Iterable[Replica],
    placed_mu_per_min: float,
    waiting_mu: float,
    settings: Autoscaling,
    promised_mu: float = 0.0,
) -> Signal:
    """The signal of one model: enough replicas for its MU and its KV tokens, at the target."""
    replicas = list(replicas)
    is_open = [replica for replica in replicas if replica["state"] in OPEN_STATES]
    target = settings.target_utilisation
    queued = waiting_mu * 60 / settings.queue_seconds
    typical_mu = mean(replica["capacity_mu_per_min"] for replica in replicas)
    typical_kv = mean(replica["kv_capacity_tokens"] for replica in replicas)
    kv_tokens = sum(replica["kv_tokens"] for replica in replicas)
    by_mu = ratio(placed_mu_per_min + queued, typical_mu * target)
    by_kv = ratio(kv_tokens, typical_kv * target)
    wanted = math.ceil(max(by_mu, by_kv))
    desired = min(max(wanted, settings.min_replicas), settings.max_replicas)
    limit: Limit = "mu" if by_mu >= by_kv else "kv"
    if desired < wanted:
        limit = "max_replicas"
    elif desired > wanted:
        limit = "min_replicas"
    return Signal(
        placed_mu=placed_mu_per_min,
        queued_mu=queued,
        capacity_mu=sum(serves(replica) for replica in is_open),
        promised_mu=promised_mu,
        replica_mu=typical_mu,
        target_utilisation=target,
        replicas_by_mu=by_mu,
        replicas_by_kv=by_kv,
        open_replicas=len(is_open),
        desired_replicas=desired,
        limited_by=limit,
    )


def serves(replica: Replica) -> float:
    """MU a minute that a replica may be given now: less while it is probed or warms up."""
    return replica["capacity_mu_per_min"] * replica["share"]


def mean(values: Iterable[float]) -> float:
    """The mean; 0 of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def ratio(part: float, whole: float) -> float:
    """One divided by the other; 0 where there is nothing to divide by."""
    return part / whole if whole > 0 else 0.0
