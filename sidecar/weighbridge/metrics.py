"""Prometheus metrics, collected from the core's status when they are asked for."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from weighbridge import __version__

Status = Mapping[str, Any]
REPLICA_LABELS = ("replica", "model", "domain")


class StatusCollector:
    """Turns a status of the core into metric families."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        """All families, from one look at the core."""
        status = self._status()
        yield InfoMetricFamily("weighbridge_build", "This build", {"version": __version__})
        yield GaugeMetricFamily("weighbridge_streams", "Open ext_proc streams", status["streams"])
        yield GaugeMetricFamily("weighbridge_pool_number", "The pool's number", status["pool"])
        yield by_label(
            "weighbridge_decisions", "Decisions by reason", "reason", status.get("reasons", {})
        )
        yield by_label("weighbridge_refusals", "Refusals by code", "code", status.get("errors", {}))
        yield from replica_families(status["replicas"])
        yield from admission_families(status.get("admission", {}))
        yield from tenant_families(status.get("tenants", ()))
        yield CounterMetricFamily(
            "weighbridge_usage_records_lost",
            "Usage records that could not be written down in time",
            status.get("usage_records_lost", 0),
        )


def admission_families(doors: Mapping[str, Mapping[str, Any]]) -> Iterable[Metric]:
    """What runs and what waits before each model's replicas."""
    running = GaugeMetricFamily(
        "weighbridge_admission_mu_in_flight", "MU admitted and not done", labels=["model", "on"]
    )
    requests = GaugeMetricFamily(
        "weighbridge_queue_requests", "Requests that wait", labels=["model", "priority"]
    )
    mu = GaugeMetricFamily("weighbridge_queue_mu", "MU that wait", labels=["model", "priority"])
    for model, door in doors.items():
        running.add_metric([model, "promises"], door["promised_mu"])
        running.add_metric([model, "the rest"], door["running_mu"] - door["promised_mu"])
        for priority, queue in door["waiting"].items():
            requests.add_metric([model, priority], queue["requests"])
            mu.add_metric([model, priority], queue["mu"])
    return running, requests, mu


def tenant_families(tenants: Iterable[Mapping[str, Any]]) -> Iterable[Metric]:
    """What each tenant took of each model since start."""
    labels = ["tenant", "model"]
    requests = CounterMetricFamily(
        "weighbridge_tenant_requests", "Requests that ended", labels=labels
    )
    mu = CounterMetricFamily("weighbridge_tenant_mu", "MU billed", labels=labels)
    tokens = CounterMetricFamily(
        "weighbridge_tenant_tokens",
        "Tokens; cached ones are prompt as well",
        labels=[*labels, "of"],
    )
    for one in tenants:
        who = [one["tenant"], one["model"]]
        requests.add_metric(who, one["requests"])
        mu.add_metric(who, one["mu"])
        for kind in ("prompt", "cached", "output"):
            tokens.add_metric([*who, kind], one[f"{kind}_tokens"])
    return requests, mu, tokens


def by_label(
    name: str, help_text: str, label: str, counts: Mapping[str, float]
) -> CounterMetricFamily:
    """A counter with one label."""
    family = CounterMetricFamily(name, help_text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def replica_families(replicas: Iterable[Mapping[str, Any]]) -> Iterable[Metric]:
    """What each replica carries now and was given since start."""

    def gauge(name: str, help_text: str, *more: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, help_text, labels=[*REPLICA_LABELS, *more])

    def counter(name: str, help_text: str) -> CounterMetricFamily:
        return CounterMetricFamily(name, help_text, labels=REPLICA_LABELS)

    in_flight = gauge("weighbridge_replica_requests_in_flight", "Requests in flight")
    mu_in_flight = gauge("weighbridge_replica_mu_in_flight", "MU in flight, by phase", "phase")
    kv_tokens = gauge("weighbridge_replica_kv_tokens", "KV tokens of the requests in flight")
    capacity = gauge("weighbridge_replica_capacity_mu_per_minute", "MU per minute at saturation")
    healthy = gauge("weighbridge_replica_healthy", "1 while the replica is healthy")
    requests = counter("weighbridge_replica_requests", "Requests given to the replica")
    mu = counter("weighbridge_replica_mu", "MU given to the replica")
    for replica in replicas:
        labels = [replica["endpoint"], replica["model"], replica.get("domain", "")]
        in_flight.add_metric(labels, replica["requests"])
        mu_in_flight.add_metric([*labels, "prefill"], replica["prefill_mu"])
        mu_in_flight.add_metric([*labels, "decode"], replica["decode_mu"])
        kv_tokens.add_metric(labels, replica["kv_tokens"])
        capacity.add_metric(labels, replica["capacity_mu_per_min"])
        healthy.add_metric(labels, replica["state"] == "healthy")
        requests.add_metric(labels, replica["served"]["requests"])
        mu.add_metric(labels, replica["served"]["mu"])
    return in_flight, mu_in_flight, kv_tokens, capacity, healthy, requests, mu


class Metrics:
    """The sidecar's registry and its text."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._registry = CollectorRegistry()
        # The collector is asked at each scrape only: before the first there is nothing to describe.
        self._registry.register(StatusCollector(status))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
