"""What is promised of each model beside what its replicas serve: `weighbridge capacity`."""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from weighbridge.admin.autoscale import ratio
from weighbridge.config.admission import Admission
from weighbridge.process.tables import plain_table
from weighbridge.shapes import Signal, Status

log = logging.getLogger(__name__)

# Between two looks at whether promises can be kept, s.
INTERVAL_SECONDS = 5.0


def promised_mu(admission: Admission) -> float:
    """MU a minute promised of each model, to all tenants together; 0 where nothing is admitted."""
    if not admission.enabled:
        return 0.0
    terms = [*admission.tenants.values(), admission.default_tenant]
    return sum(each.guaranteed_mu_per_min for each in terms)


@dataclass(frozen=True, slots=True)
class Capacity:
    """One model's, MU per minute."""

    capacity_mu: float
    promised_mu: float
    used_mu: float
    # Neither promised nor used.
    free_mu: float
    replicas: int
    # For what is used, waits and is promised, at the target utilisation.
    needed_replicas: int
    target_utilisation: float

    @property
    def is_short(self) -> bool:
        """More is promised than the replicas serve now."""
        return self.promised_mu > self.capacity_mu


def capacity(signal: Signal) -> Capacity:
    """Of a model's autoscaling signal, as `/status` has it."""
    promised, used = signal["promised_mu"], signal["placed_mu"]
    by_promise = ratio(promised, signal["replica_mu"] * signal["target_utilisation"])
    needed = max(by_promise, signal["replicas_by_mu"], signal["replicas_by_kv"])
    return Capacity(
        capacity_mu=signal["capacity_mu"],
        promised_mu=promised,
        used_mu=used,
        free_mu=max(0.0, signal["capacity_mu"] - max(promised, used)),
        replicas=signal["open_replicas"],
        needed_replicas=math.ceil(needed),
        target_utilisation=signal["target_utilisation"],
    )


def capacities(status: Status) -> dict[str, Capacity]:
    """Of all models that a status tells of."""
    return {model: capacity(signal) for model, signal in status["autoscaling"].items()}


def as_json(found: Mapping[str, Capacity]) -> dict[str, Any]:
    """What `--json` writes."""
    return {model: asdict(one) | {"is_short": one.is_short} for model, one in found.items()}


def table(found: Mapping[str, Capacity]) -> Table:
    """One row a model."""
    made = plain_table("Capacity, MU a minute")
    made.add_column("model")
    for title in ("capacity", "promised", "used", "free", "replicas", "needed"):
        made.add_column(title, justify="right", no_wrap=True)
    for model, one in found.items():
        figures = (one.capacity_mu, one.promised_mu, one.used_mu, one.free_mu)
        made.add_row(
            model,
            *(f"{figure:,.0f}" for figure in figures),
            f"{one.replicas:,}",
            f"{one.needed_replicas:,}",
            style="red" if one.is_short else None,
        )
    return made


class PromiseWatch:
    """Says in the log when promises of a model come to be above what its replicas serve."""

    def __init__(self) -> None:
        self._short: set[str] = set()

    def look(self, found: Mapping[str, Capacity]) -> None:
        """Tells what has changed since the look before."""
        short = {model for model, one in found.items() if one.is_short}
        for model in sorted(short - self._short):
            one = found[model]
            log.warning(
                "%s: %.0f MU a minute are promised, and its replicas serve %.0f: promises cannot "
                "all be kept; %d replicas would do",
                model,
                one.promised_mu,
                one.capacity_mu,
                one.needed_replicas,
            )
        for model in sorted(self._short - short):
            log.info("%s: its replicas serve again what is promised", model)
        self._short = short
