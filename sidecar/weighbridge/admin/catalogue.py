"""The catalogue of metrics: each one's name, kind, labels and meaning, in one place.

Names follow Prometheus' conventions; where OpenTelemetry's terms for GenAI have a name for the same
thing, that is used. docs/metrics.md shows this catalogue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client.core import Metric

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric. A counter's samples end in `_total`, an info's in `_info`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def shown_name(self) -> str:
        """The name that queries use."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


class Family:
    """One metric's samples, as they are being collected."""

    def __init__(self, spec: Spec) -> None:
        self.metric = Metric(spec.name, spec.help, spec.kind)
        self._labels = spec.labels
        self._name = spec.shown_name

    def add(self, values: Sequence[str], figure: float) -> None:
        """Adds a sample; values in the order of the metric's labels."""
        labels = dict(zip(self._labels, values, strict=True))
        self.metric.add_sample(self._name, labels, figure)

    def add_histogram(self, values: Sequence[str], content: Mapping[str, Any]) -> None:
        """Adds a histogram as the core tells it: cumulative buckets, the last without a bound."""
        labels = dict(zip(self._labels, values, strict=True))
        count = 0
        for bound, count in content["buckets"]:
            le = "+Inf" if bound is None else repr(float(bound))
            self.metric.add_sample(f"{self._name}_bucket", labels | {"le": le}, count)
        self.metric.add_sample(f"{self._name}_count", labels, count)
        self.metric.add_sample(f"{self._name}_sum", labels, content["sum_s"])


MODEL = ("model",)
REPLICA = ("replica", "model", "domain")
TENANT = ("tenant", "model")
# The label under which OpenTelemetry's terms for GenAI know the model.
GEN_AI = ("gen_ai_request_model",)
TOKENS = ("model", "token_type")

BUILD = Spec("weighbridge_build", "info", "This build", ("version",))
STREAMS = Spec("weighbridge_streams", "gauge", "Open ext_proc streams")
POOL_NUMBER = Spec("weighbridge_pool_number", "gauge", "Grows with each change of the replicas")
DECISIONS = Spec("weighbridge_decisions", "counter", "Decisions by reason", ("reason",))
REFUSALS = Spec("weighbridge_refusals", "counter", "Refusals by code", ("code",))
DECISION_DURATION = Spec(
    "weighbridge_decision_duration_seconds",
    "histogram",
    "Time to read, weigh and place a request, without its wait for admission",
)
REQUESTS_REAPED = Spec(
    "weighbridge_requests_reaped",
    "counter",
    "Requests ended because they had been under way for hours: their connection is dead",
)
USAGE_RECORDS_LOST = Spec(
    "weighbridge_usage_records_lost",
    "counter",
    "Usage records that could not be written down in time",
)

SPANS = Spec(
    "weighbridge_spans",
    "counter",
    "Spans of decisions: sent to the collector, not taken by it (failed), fallen out of the queue "
    "(lost)",
    ("outcome",),
)

OBSERVE_ONLY = Spec("weighbridge_observe_only", "gauge", "1 while decisions are only recorded")
OBSERVED = Spec(
    "weighbridge_observed_requests",
    "counter",
    "In observe-only mode: decided, seen to be served, of these elsewhere, and would be refused",
    ("outcome",),
)
OBSERVED_MU = Spec(
    "weighbridge_observed_mu",
    "counter",
    "In observe-only mode: MU of requests where they were served, and where they would have gone",
    ("place",),
)

RELOAD_SUCCESS = Spec(
    "weighbridge_config_reload_success",
    "gauge",
    "1 while the configuration file is in force; 0 while it was refused and the former one stays",
)
RELOAD_TIME = Spec(
    "weighbridge_config_reload_timestamp_seconds",
    "gauge",
    "When the configuration in force was taken, s since 1970",
)
RELOAD_REFUSALS = Spec(
    "weighbridge_config_reload_refusals", "counter", "Configuration files that were refused"
)
POLLS_SKIPPED = Spec(
    "weighbridge_polls_skipped",
    "counter",
    "Polls that count for nothing: they failed on this machine (unsent), or the replica's page is "
    "no list of iterations (unreadable)",
    ("reason",),
)

ASSIGNMENT_NUMBER = Spec(
    "weighbridge_assignment_number", "gauge", "Grows with each change of slices or their replicas"
)
ASSIGNMENT_MOVES = Spec(
    "weighbridge_assignment_moves", "counter", "Changes of slices' replicas by reason", ("reason",)
)
SLICES = Spec("weighbridge_slices", "gauge", "Slices of the key space", MODEL)
SLICE_HOMES = Spec("weighbridge_slice_homes", "gauge", "Replicas of all slices together", MODEL)
UTILISATION = Spec(
    "weighbridge_utilisation_ratio",
    "gauge",
    "Utilisation of replicas that the slices lead to, 1 is capacity: highest and mean",
    ("model", "stat"),
)

DEMAND = Spec(
    "weighbridge_demand_mu_per_minute",
    "gauge",
    "Demand: MU placed (decayed), and what it takes to clear the queue in time",
    ("model", "source"),
)
CAPACITY = Spec(
    "weighbridge_capacity_mu_per_minute", "gauge", "Capacity of replicas that take work", MODEL
)
OBJECTIVES = Spec(
    "weighbridge_objectives",
    "counter",
    "Streamed answers whose first token, or tokens after it, met their objective or missed it",
    ("model", "objective", "outcome"),
)
PROMISED = Spec(
    "weighbridge_promised_mu_per_minute", "gauge", "Promised to all tenants together", MODEL
)
TARGET_UTILISATION = Spec(
    "weighbridge_target_utilisation_ratio",
    "gauge",
    "Share of capacity that autoscaling aims at",
    MODEL,
)
NEEDED_REPLICAS = Spec(
    "weighbridge_needed_replicas",
    "gauge",
    "Replicas that demand needs at the target, by MU and by KV tokens, unrounded",
    ("model", "by"),
)
DESIRED_REPLICAS = Spec(
    "weighbridge_desired_replicas",
    "gauge",
    "Replicas to have: the larger need, rounded up, within the configured bounds",
    MODEL,
)
REPLICAS = Spec("weighbridge_replicas", "gauge", "Replicas by state", ("model", "state"))

REPLICA_IN_FLIGHT = Spec(
    "weighbridge_replica_requests_in_flight", "gauge", "Requests in flight", REPLICA
)
REPLICA_MU_IN_FLIGHT = Spec(
    "weighbridge_replica_mu_in_flight", "gauge", "MU in flight, by phase", (*REPLICA, "phase")
)
REPLICA_KV_TOKENS = Spec(
    "weighbridge_replica_kv_tokens", "gauge", "KV tokens of the requests in flight", REPLICA
)
REPLICA_KV_CAPACITY = Spec(
    "weighbridge_replica_kv_capacity_tokens", "gauge", "KV tokens that it can hold", REPLICA
)
REPLICA_CAPACITY = Spec(
    "weighbridge_replica_capacity_mu_per_minute", "gauge", "MU per minute at saturation", REPLICA
)
REPLICA_CACHED_BLOCKS = Spec(
    "weighbridge_replica_cached_blocks", "gauge", "Prefix blocks that it likely holds", REPLICA
)
REPLICA_HEALTHY = Spec(
    "weighbridge_replica_healthy", "gauge", "1 while the replica is healthy", REPLICA
)
REPLICA_STATE = Spec(
    "weighbridge_replica_state", "gauge", "1 for the state that it is in", (*REPLICA, "state")
)
REPLICA_REQUESTS = Spec("weighbridge_replica_requests", "counter", "Requests given to it", REPLICA)
REPLICA_MU = Spec("weighbridge_replica_mu", "counter", "MU given to it", REPLICA)
REPLICA_FAILURES = Spec(
    "weighbridge_replica_failures", "counter", "Replies of status 500 and above", REPLICA
)
REPLICA_SHARE = Spec(
    "weighbridge_replica_share", "gauge", "Share of its capacity that it may be given now", REPLICA
)
REPLICA_SPEED = Spec(
    "weighbridge_replica_speed", "gauge", "Speed against its profile, where known", REPLICA
)
REPLICA_FOREIGN_MU = Spec(
    "weighbridge_replica_foreign_mu", "gauge", "MU that came past this sidecar", REPLICA
)
HEALTH_CHANGES = Spec(
    "weighbridge_health_changes",
    "counter",
    "Replicas that went to a state, by what weighed most",
    ("state", "cause"),
)
REPLICA_RESTARTS = Spec(
    "weighbridge_replica_restarts", "counter", "Restarts of replicas that were noticed"
)
LOOP_AGE = Spec(
    "weighbridge_loop_age_seconds",
    "gauge",
    "Time since the assigner's and health's last round; of one that hangs it only rises",
    ("loop",),
)
LOOP_FAILURES = Spec(
    "weighbridge_loop_failures",
    "counter",
    "Times that a loop of the sidecar broke and went on; the log has the trace",
    ("loop",),
)
REPLICA_PROMPT_TOKENS = Spec(
    "weighbridge_replica_prompt_tokens", "counter", "Prompt tokens given to it", REPLICA
)
REPLICA_CACHED_TOKENS = Spec(
    "weighbridge_replica_cached_tokens",
    "counter",
    "Of these, predicted to be in its cache",
    REPLICA,
)

DISCOVERY_UP = Spec(
    "weighbridge_discovery_up",
    "gauge",
    "1 while the source tells its list, 0 before its first and while it fails and its last stays",
    ("source",),
)
DISCOVERY_REPLICAS = Spec(
    "weighbridge_discovery_replicas", "gauge", "Replicas in the source's last list", ("source",)
)
DISCOVERY_FAILURES = Spec(
    "weighbridge_discovery_failures", "counter", "Times that the source failed", ("source",)
)
MEMBERS = Spec(
    "weighbridge_members",
    "gauge",
    "Replicas by stage: announced to Envoy, serving, leaving, left (Envoy alone still has it)",
    ("stage",),
)
ADS_ENVOYS = Spec("weighbridge_ads_envoys", "gauge", "Envoys that are told the list of replicas")
ADS_REFUSALS = Spec(
    "weighbridge_ads_refusals", "gauge", "Lists refused by the Envoys that are connected"
)

ADMISSION_MU = Spec(
    "weighbridge_admission_mu_in_flight", "gauge", "MU admitted and not done", ("model", "on")
)
QUEUE_REQUESTS = Spec(
    "weighbridge_queue_requests", "gauge", "Requests that wait", ("model", "priority")
)
QUEUE_MU = Spec("weighbridge_queue_mu", "gauge", "MU that wait", ("model", "priority"))
QUEUE_WAIT = Spec(
    "weighbridge_queue_wait_seconds",
    "histogram",
    "Wait for admission, of requests that had to wait",
    MODEL,
)

TENANT_REQUESTS = Spec("weighbridge_tenant_requests", "counter", "Requests that ended", TENANT)
TENANT_MU = Spec("weighbridge_tenant_mu", "counter", "MU billed", TENANT)
TENANT_TOKENS = Spec(
    "weighbridge_tenant_tokens",
    "counter",
    "Tokens; cached ones are input as well",
    (*TENANT, "token_type"),
)

FIRST_TOKEN = Spec(
    "gen_ai_server_time_to_first_token_seconds",
    "histogram",
    "From a request's arrival to the first token of its reply, waits included",
    GEN_AI,
)
REQUEST_DURATION = Spec(
    "gen_ai_server_request_duration_seconds",
    "histogram",
    "From a request's arrival to the end of its reply",
    GEN_AI,
)

PREDICTIONS = Spec(
    "weighbridge_predictions",
    "counter",
    "Predictions that a reply's usage could be compared with",
    TOKENS,
)
PREDICTED_TOKENS = Spec("weighbridge_predicted_tokens", "counter", "Tokens predicted", TOKENS)
ACTUAL_TOKENS = Spec("weighbridge_actual_tokens", "counter", "Tokens that it was", TOKENS)
PREDICTION_ERROR = Spec(
    "weighbridge_prediction_error_tokens",
    "counter",
    "Sum of each prediction's absolute error",
    TOKENS,
)

PROFILE_DRIFT = Spec(
    "weighbridge_profile_drift_ratio",
    "gauge",
    "Time that live traffic takes ÷ what the profile says, and the bounds of its 95 % interval",
    ("profile", "of", "bound"),
)
PROFILE_DRIFT_REQUESTS = Spec(
    "weighbridge_profile_drift_requests",
    "gauge",
    "Timed requests that the ratio is judged by",
    ("profile", "of"),
)
PROFILE_RECALIBRATE = Spec(
    "weighbridge_profile_recalibrate", "gauge", "1 when it should be measured again", ("profile",)
)

CATALOGUE: tuple[Spec, ...] = (
    BUILD,
    STREAMS,
    POOL_NUMBER,
    DECISIONS,
    REFUSALS,
    DECISION_DURATION,
    REQUESTS_REAPED,
    USAGE_RECORDS_LOST,
    SPANS,
    RELOAD_SUCCESS,
    RELOAD_TIME,
    RELOAD_REFUSALS,
    POLLS_SKIPPED,
    OBSERVE_ONLY,
    OBSERVED,
    OBSERVED_MU,
    ASSIGNMENT_NUMBER,
    ASSIGNMENT_MOVES,
    SLICES,
    SLICE_HOMES,
    UTILISATION,
    DEMAND,
    CAPACITY,
    PROMISED,
    OBJECTIVES,
    TARGET_UTILISATION,
    NEEDED_REPLICAS,
    DESIRED_REPLICAS,
    REPLICAS,
    REPLICA_IN_FLIGHT,
    REPLICA_MU_IN_FLIGHT,
    REPLICA_KV_TOKENS,
    REPLICA_KV_CAPACITY,
    REPLICA_CAPACITY,
    REPLICA_CACHED_BLOCKS,
    REPLICA_HEALTHY,
    REPLICA_STATE,
    REPLICA_REQUESTS,
    REPLICA_MU,
    REPLICA_FAILURES,
    REPLICA_SHARE,
    REPLICA_SPEED,
    REPLICA_FOREIGN_MU,
    REPLICA_RESTARTS,
    HEALTH_CHANGES,
    LOOP_AGE,
    LOOP_FAILURES,
    REPLICA_PROMPT_TOKENS,
    REPLICA_CACHED_TOKENS,
    DISCOVERY_UP,
    DISCOVERY_REPLICAS,
    DISCOVERY_FAILURES,
    MEMBERS,
    ADS_ENVOYS,
    ADS_REFUSALS,
    ADMISSION_MU,
    QUEUE_REQUESTS,
    QUEUE_MU,
    QUEUE_WAIT,
    TENANT_REQUESTS,
    TENANT_MU,
    TENANT_TOKENS,
    FIRST_TOKEN,
    REQUEST_DURATION,
    PREDICTIONS,
    PREDICTED_TOKENS,
    ACTUAL_TOKENS,
    PREDICTION_ERROR,
    PROFILE_DRIFT,
    PROFILE_DRIFT_REQUESTS,
    PROFILE_RECALIBRATE,
)


def table() -> str:
    """The catalogue as docs/metrics.md shows it."""
    rows = []
    for one in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{one.shown_name}` | {one.kind} | {labels} | {one.help} |")
    return "\n".join(["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows]) + "\n"
