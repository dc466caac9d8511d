"""Prometheus metrics, collected from the sidecar's status when they are asked for."""

import gzip
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric

from weighbridge.admin import catalogue as cat
from weighbridge.admin.catalogue import Family
from weighbridge.shapes import Replica, Status

GZIP_LEVEL = 3
TokenKey = Literal["prompt_tokens", "cached_tokens", "output_tokens"]
STATES = ("healthy", "degraded", "probing", "ejected", "draining")
# Kinds of tokens, as OpenTelemetry's terms for GenAI name them; cached ones are input as well.
TOKEN_TYPES: Mapping[str, TokenKey] = {
    "input": "prompt_tokens",
    "cached": "cached_tokens",
    "output": "output_tokens",
}


class StatusCollector:
    """Turns a status into metric families."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        # Models that have had replicas: of one that has lost them all the series says 0.
        self._models: set[str] = set()

    def collect(self) -> Iterable[Metric]:
        """All families, from one look at the status."""
        status = self._status()
        self._models.update(replica["model"] for replica in status["replicas"])
        yield replica_counts(status["replicas"], sorted(self._models)).metric
        for families in (
            process_families,
            reload_families,
            observing_families,
            assignment_families,
            autoscaling_families,
            replica_families,
            health_families,
            discovery_families,
            admission_families,
            tenant_families,
            measure_families,
            drift_families,
        ):
            for family in families(status):
                yield family.metric


def process_families(status: Status) -> list[Family]:
    """The process and its decisions."""
    build, streams, pool = Family(cat.BUILD), Family(cat.STREAMS), Family(cat.POOL_NUMBER)
    build.add([status["version"]], 1)
    streams.add([], status["streams"])
    pool.add([], status["pool"])
    decision = Family(cat.DECISION_DURATION)
    decision.add_histogram([], status["decision"])
    lost = Family(cat.USAGE_RECORDS_LOST)
    lost.add([], status["usage_records_lost"])
    reaped = Family(cat.REQUESTS_REAPED)
    reaped.add([], status["reaped"])
    spans = status.get("spans", {}) | {"lost": status["spans_lost"]}
    return [
        build,
        streams,
        pool,
        counted(cat.DECISIONS, status["reasons"]),
        counted(cat.REFUSALS, status["errors"]),
        reaped,
        decision,
        lost,
        counted(cat.SPANS, spans),
    ]


def reload_families(status: Status) -> list[Family]:
    """Whether the configuration file is in force."""
    found = status.get("config")
    if found is None:
        return []
    success, at = Family(cat.RELOAD_SUCCESS), Family(cat.RELOAD_TIME)
    refusals = Family(cat.RELOAD_REFUSALS)
    success.add([], found["refused"] is None)
    at.add([], found["loaded_at"])
    refusals.add([], found["refusals"])
    return [success, at, refusals, counted(cat.POLLS_SKIPPED, status["polls"])]


def observing_families(status: Status) -> list[Family]:
    """What observe-only mode has found."""
    observe_only, requests, mu = (
        Family(cat.OBSERVE_ONLY),
        Family(cat.OBSERVED),
        Family(cat.OBSERVED_MU),
    )
    observe_only.add([], status["observe_only"])
    for outcome in ("decided", "served", "elsewhere", "would_refuse"):
        requests.add([outcome], status["observed"][outcome])
    for place in ("served", "decided"):
        mu.add([place], status["observed"][f"{place}_mu"])
    return [observe_only, requests, mu]


def counted(metric: cat.Spec, counts: Mapping[str, float]) -> Family:
    """A family with one label."""
    family = Family(metric)
    for value, count in counts.items():
        family.add([value], count)
    return family


def assignment_families(status: Status) -> list[Family]:
    """Slices, and what the assigner has done."""
    assignment = status["assignment"]
    number = Family(cat.ASSIGNMENT_NUMBER)
    number.add([], assignment["number"])
    slices, homes, use = Family(cat.SLICES), Family(cat.SLICE_HOMES), Family(cat.UTILISATION)
    for model, report in assignment["models"].items():
        slices.add([model], report["slices"])
        homes.add([model], report["homes"])
        use.add([model, "highest"], report["highest"])
        use.add([model, "mean"], report["mean"])
    return [number, counted(cat.ASSIGNMENT_MOVES, assignment["moves"]), slices, homes, use]


def autoscaling_families(status: Status) -> list[Family]:
    """Demand, capacity, and the replicas that they ask for."""
    demand, capacity = Family(cat.DEMAND), Family(cat.CAPACITY)
    promised = Family(cat.PROMISED)
    target, needed, desired = (
        Family(cat.TARGET_UTILISATION),
        Family(cat.NEEDED_REPLICAS),
        Family(cat.DESIRED_REPLICAS),
    )
    for model, signal in status["autoscaling"].items():
        demand.add([model, "placed"], signal["placed_mu"])
        demand.add([model, "queued"], signal["queued_mu"])
        capacity.add([model], signal["capacity_mu"])
        promised.add([model], signal["promised_mu"])
        target.add([model], signal["target_utilisation"])
        needed.add([model, "mu"], signal["replicas_by_mu"])
        needed.add([model, "kv"], signal["replicas_by_kv"])
        desired.add([model], signal["desired_replicas"])
    return [demand, capacity, promised, target, needed, desired]


def replica_counts(replicas: Iterable[Replica], models: Iterable[str]) -> Family:
    """How many replicas of each of the models are in each state."""
    counts = {model: dict.fromkeys(STATES, 0) for model in models}
    for replica in replicas:
        counts[replica["model"]][replica["state"]] += 1
    family = Family(cat.REPLICAS)
    for model, states in counts.items():
        for state, count in states.items():
            family.add([model, state], count)
    return family


# Of a replica: the metric, and where its figure is.
REPLICA_FIGURES: tuple[tuple[cat.Spec, Callable[[Replica], float]], ...] = (
    (cat.REPLICA_IN_FLIGHT, lambda replica: replica["requests"]),
    (cat.REPLICA_KV_TOKENS, lambda replica: replica["kv_tokens"]),
    (cat.REPLICA_KV_CAPACITY, lambda replica: replica["kv_capacity_tokens"]),
    (cat.REPLICA_CAPACITY, lambda replica: replica["capacity_mu_per_min"]),
    (cat.REPLICA_CACHED_BLOCKS, lambda replica: replica["cached_blocks"]),
    (cat.REPLICA_HEALTHY, lambda replica: replica["state"] == "healthy"),
    (cat.REPLICA_REQUESTS, lambda replica: replica["served"]["requests"]),
    (cat.REPLICA_MU, lambda replica: replica["served"]["mu"]),
    (cat.REPLICA_FAILURES, lambda replica: replica["served"]["failures"]),
    (cat.REPLICA_SHARE, lambda replica: replica["share"]),
    (cat.REPLICA_FOREIGN_MU, lambda replica: replica["foreign"]["mu"]),
    (cat.REPLICA_PROMPT_TOKENS, lambda replica: replica["served"]["prompt_tokens"]),
    (cat.REPLICA_CACHED_TOKENS, lambda replica: replica["served"]["cached_tokens"]),
)


def replica_families(status: Status) -> list[Family]:
    """What each replica carries now and was given since start."""
    families = [Family(metric) for metric, _ in REPLICA_FIGURES]
    mu, states = Family(cat.REPLICA_MU_IN_FLIGHT), Family(cat.REPLICA_STATE)
    speed = Family(cat.REPLICA_SPEED)
    for replica in status["replicas"]:
        labels = [replica["endpoint"], replica["model"], replica["domain"]]
        for family, (_, figure) in zip(families, REPLICA_FIGURES, strict=True):
            family.add(labels, figure(replica))
        mu.add([*labels, "prefill"], replica["prefill_mu"])
        mu.add([*labels, "decode"], replica["decode_mu"])
        for state in STATES:
            states.add([*labels, state], replica["state"] == state)
        if replica["health"]["speed"] is not None:
            speed.add(labels, replica["health"]["speed"])
    return [*families, mu, states, speed]


def health_families(status: Status) -> list[Family]:
    """What judging health has come to, and how long ago each loop did its work."""
    changes, restarts = Family(cat.HEALTH_CHANGES), Family(cat.REPLICA_RESTARTS)
    for state, causes in status["health"]["changes"].items():
        for cause, count in causes.items():
            changes.add([state, cause], count)
    restarts.add([], status["health"]["restarts"])
    age = Family(cat.LOOP_AGE)
    rounds = {
        "assigner": status["assignment"]["rounded_at_ms"] * 1000,
        "health": status["health"]["judged_at_us"],
    }
    for loop, last_us in rounds.items():
        age.add([loop], max(status["now_us"] - last_us, 0) / 1e6)
    failures = counted(cat.LOOP_FAILURES, status.get("loops", {}))
    return [changes, restarts, age, failures]


def discovery_families(status: Status) -> list[Family]:
    """How the sources of replicas stand, and the Envoys that are told of them."""
    found = status.get("discovery") or {"sources": [], "members": {}, "envoys": []}
    up, replicas = Family(cat.DISCOVERY_UP), Family(cat.DISCOVERY_REPLICAS)
    failures = Family(cat.DISCOVERY_FAILURES)
    for source in found["sources"]:
        labels = [source["source"]]
        up.add(labels, source["error"] is None and source["replicas"] is not None)
        replicas.add(labels, source["replicas"] or 0)
        failures.add(labels, source["failures"])
    members = Family(cat.MEMBERS)
    for stage, count in found["members"].items():
        members.add([stage], count)
    envoys, refusals = Family(cat.ADS_ENVOYS), Family(cat.ADS_REFUSALS)
    envoys.add([], len(found["envoys"]))
    refusals.add([], sum(one["refusals"] for one in found["envoys"]))
    return [up, replicas, failures, members, envoys, refusals]


def admission_families(status: Status) -> list[Family]:
    """What runs and what waits before each model's replicas."""
    running = Family(cat.ADMISSION_MU)
    requests, mu = Family(cat.QUEUE_REQUESTS), Family(cat.QUEUE_MU)
    for model, door in status["admission"].items():
        running.add([model, "promises"], door["promised_mu"])
        running.add([model, "the rest"], door["running_mu"] - door["promised_mu"])
        for priority, queue in door["waiting"].items():
            requests.add([model, priority], queue["requests"])
            mu.add([model, priority], queue["mu"])
    return [running, requests, mu]


def tenant_families(status: Status) -> list[Family]:
    """What each tenant took of each model since start."""
    requests, mu = Family(cat.TENANT_REQUESTS), Family(cat.TENANT_MU)
    tokens = Family(cat.TENANT_TOKENS)
    for one in status["tenants"]:
        who = [one["tenant"], one["model"]]
        requests.add(who, one["requests"])
        mu.add(who, one["mu"])
        for kind, key in TOKEN_TYPES.items():
            tokens.add([*who, kind], one[key])
    return [requests, mu, tokens]


def measure_families(status: Status) -> list[Family]:
    """Times of requests, and how true predictions were."""
    histograms = {
        "first_token": Family(cat.FIRST_TOKEN),
        "request": Family(cat.REQUEST_DURATION),
        "queue": Family(cat.QUEUE_WAIT),
    }
    predictions = {
        "requests": Family(cat.PREDICTIONS),
        "predicted": Family(cat.PREDICTED_TOKENS),
        "actual": Family(cat.ACTUAL_TOKENS),
        "absolute_error": Family(cat.PREDICTION_ERROR),
    }
    objectives = Family(cat.OBJECTIVES)
    for model, measures in status["measures"].items():
        for objective in ("ttft", "tpot"):
            for outcome in ("met", "missed"):
                objectives.add([model, objective, outcome], measures[objective][outcome])
        for key, family in histograms.items():
            family.add_histogram([model], measures[key])
        for kind, of in TOKEN_TYPES.items():
            for key, family in predictions.items():
                family.add([model, kind], measures[of][key])
    return [*histograms.values(), *predictions.values(), objectives]


def drift_families(status: Status) -> list[Family]:
    """How far live traffic is from each profile, where enough was timed to say so."""
    ratio, requests = Family(cat.PROFILE_DRIFT), Family(cat.PROFILE_DRIFT_REQUESTS)
    again = Family(cat.PROFILE_RECALIBRATE)
    for name, finding in status.get("drift", {}).items():
        again.add([name], finding["recalibrate"])
        for of in ("decode", "prefill"):
            factor = finding[of]
            requests.add([name, of], factor["requests"])
            if factor["state"] != "unknown":
                for bound, key in (("value", "factor"), ("low", "low"), ("high", "high")):
                    ratio.add([name, of, bound], factor[key])
    return [ratio, requests, again]


class Metrics:
    """The sidecar's registry and its text."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._registry = CollectorRegistry()
        # The collector is asked at each scrape only: before the first there is nothing to describe.
        self._registry.register(StatusCollector(status))
        # What the process itself takes: memory, processor time, descriptors, collections.
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def packed(self) -> bytes:
        """The same, compressed: of a large fleet a thirtieth."""
        return gzip.compress(self.text(), compresslevel=GZIP_LEVEL)
