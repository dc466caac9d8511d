"""Metrics: what the sidecar knows is what Prometheus reads, by the names that the docs give."""

import json
import re
from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.admin.test_admin import PROFILE
from weighbridge import __version__
from weighbridge._core import Core
from weighbridge.admin.catalogue import CATALOGUE
from weighbridge.admin.metrics import Metrics
from weighbridge.admin.status import control_plane, snapshot
from weighbridge.config.file import Config
from weighbridge.envoy.runtime import View

HISTOGRAM = {"buckets": [[0.001, 2], [None, 3]], "sum_s": 7.5}
PREDICTION = {"requests": 3, "predicted": 90, "actual": 100, "absolute_error": 20}
STATUS: Any = {
    "pool": 3,
    "streams": 2,
    "reasons": {"home": 7},
    "errors": {"model_not_found": 1},
    "decision": HISTOGRAM,
    "assignment": {
        "number": 12,
        "rounded_at_ms": 4000,
        "moves": {"spread": 4},
        "models": {"m": {"slices": 5, "homes": 6, "mu_per_s": 2100.0, "highest": 0.5, "mean": 0.4}},
    },
    "measures": {
        "m": {
            "first_token": HISTOGRAM,
            "request": HISTOGRAM,
            "queue": HISTOGRAM,
            "prompt_tokens": PREDICTION,
            "cached_tokens": PREDICTION | {"actual": 77},
            "output_tokens": PREDICTION,
            "ttft": {"met": 9, "missed": 1},
            "tpot": {"met": 8, "missed": 2},
        }
    },
    "admission": {
        "m": {
            "running_mu": 50.0,
            "promised_mu": 20.0,
            "waiting": {"standard": {"requests": 4, "mu": 400.0}},
        }
    },
    "tenants": [
        {
            "tenant": "acme",
            "model": "m",
            "requests": 3,
            "mu": 12.5,
            "prompt_tokens": 100,
            "cached_tokens": 60,
            "output_tokens": 30,
        }
    ],
    "drift": {
        "p": {
            "recalibrate": True,
            "decode": {"factor": 1.3, "low": 1.25, "high": 1.35, "requests": 90, "state": "is off"},
            "prefill": {"factor": 1.0, "low": 1.0, "high": 1.0, "requests": 0, "state": "unknown"},
        }
    },
    "observe_only": True,
    "observed": {
        "decided": 8,
        "served": 7,
        "elsewhere": 5,
        "would_refuse": 1,
        "served_mu": 90.0,
        "decided_mu": 60.0,
    },
    "usage_records_lost": 2,
    "reaped": 3,
    "spans_lost": 4,
    "spans": {"sent": 6, "failed": 5},
    "now_us": 9_000_000,
    "loops": {"runtime": 2},
    "config": {
        "hash": "ab",
        "loaded_at": 1.7e9,
        "refused": "why",
        "refused_at": 2.0,
        "refusals": 3,
    },
    "polls": {"unsent": 4, "unreadable": 5},
    "discovery": {
        "sources": [
            {"source": "told", "replicas": 2, "failures": 0, "error": None},
            {"source": "silent", "replicas": None, "failures": 0, "error": None},
            {"source": "failing", "replicas": 1, "failures": 7, "error": "away"},
        ],
        "members": {"serving": 3},
        "envoys": [],
    },
    "health": {"changes": {"ejected": {"slow": 3}}, "restarts": 6, "judged_at_us": 8_000_000},
    "replicas": [
        {
            "endpoint": "10.0.0.1:8000",
            "model": "m",
            "domain": "r1",
            "state": "ejected",
            "share": 0.25,
            "health": {"wellness": 0.1, "cause": "slow", "speed": 0.2},
            "foreign": {"requests": 5, "mu": 77.0, "kv_tokens": 10},
            "requests": 2,
            "prefill_mu": 10.5,
            "decode_mu": 4.0,
            "kv_tokens": 900,
            "kv_capacity_tokens": 1000,
            "cached_blocks": 8,
            "capacity_mu_per_min": 60000.0,
            "served": {
                "requests": 9,
                "mu": 123.5,
                "prompt_tokens": 800,
                "cached_tokens": 500,
                "failures": 1,
            },
        }
    ],
}


def families(text: bytes) -> list[Metric]:
    return list(text_string_to_metric_families(text.decode()))


def samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status = STATUS | control_plane(STATUS, Config(), View())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(Metrics(lambda: status).text())
        for sample in family.samples
    }


def test_every_figure_of_the_status_arrives() -> None:
    found = samples()
    replica = (("domain", "r1"), ("model", "m"), ("replica", "10.0.0.1:8000"))
    model = (("model", "m"),)
    assert found["weighbridge_build_info", (("version", __version__),)] == 1
    assert found["weighbridge_streams", ()] == 2
    assert found["weighbridge_pool_number", ()] == 3
    assert found["weighbridge_decisions_total", (("reason", "home"),)] == 7
    assert found["weighbridge_refusals_total", (("code", "model_not_found"),)] == 1
    assert found["weighbridge_decision_duration_seconds_bucket", (("le", "0.001"),)] == 2
    assert found["weighbridge_decision_duration_seconds_bucket", (("le", "+Inf"),)] == 3
    assert found["weighbridge_decision_duration_seconds_count", ()] == 3
    assert found["weighbridge_decision_duration_seconds_sum", ()] == 7.5
    assert found["weighbridge_observe_only", ()] == 1
    assert found["weighbridge_observed_requests_total", (("outcome", "elsewhere"),)] == 5
    assert found["weighbridge_observed_mu_total", (("place", "served"),)] == 90
    assert found["weighbridge_assignment_number", ()] == 12
    assert found["weighbridge_assignment_moves_total", (("reason", "spread"),)] == 4
    assert found["weighbridge_slices", model] == 5
    assert found["weighbridge_replica_requests_in_flight", replica] == 2
    assert found["weighbridge_replica_kv_tokens", replica] == 900
    assert found["weighbridge_replica_healthy", replica] == 0
    assert found["weighbridge_replica_mu_total", replica] == 123.5
    ejected = tuple(sorted([*replica, ("state", "ejected")]))
    assert found["weighbridge_replica_state", ejected] == 1
    assert found["weighbridge_replicas", (("model", "m"), ("state", "ejected"))] == 1
    queue = (("model", "m"), ("priority", "standard"))
    assert found["weighbridge_queue_requests", queue] == 4
    assert found["weighbridge_queue_mu", queue] == 400
    promises = (("model", "m"), ("on", "promises"))
    assert found["weighbridge_admission_mu_in_flight", promises] == 20
    acme = (("model", "m"), ("tenant", "acme"))
    assert found["weighbridge_tenant_mu_total", acme] == 12.5
    cached = (("model", "m"), ("tenant", "acme"), ("token_type", "cached"))
    assert found["weighbridge_tenant_tokens_total", cached] == 60
    assert found["weighbridge_usage_records_lost_total", ()] == 2
    assert found["weighbridge_requests_reaped_total", ()] == 3
    for outcome, spans in {"sent": 6, "failed": 5, "lost": 4}.items():
        assert found["weighbridge_spans_total", (("outcome", outcome),)] == spans
    prefill = tuple(sorted([*replica, ("phase", "prefill")]))
    assert found["weighbridge_replica_mu_in_flight", prefill] == 10.5
    true_cached = (("model", "m"), ("token_type", "cached"))
    assert found["weighbridge_predicted_tokens_total", true_cached] == 90
    assert found["weighbridge_actual_tokens_total", true_cached] == 77
    assert found["weighbridge_prediction_error_tokens_total", true_cached] == 20
    gen_ai = (("gen_ai_request_model", "m"),)
    assert found["gen_ai_server_time_to_first_token_seconds_sum", gen_ai] == 7.5
    # 2,100 MU/s and 400 MU that wait, on replicas of 1,000 MU/s used by 70 %.
    assert found["weighbridge_demand_mu_per_minute", (*model, ("source", "placed"))] == 126_000
    assert found["weighbridge_demand_mu_per_minute", (*model, ("source", "queued"))] == 400
    assert found["weighbridge_capacity_mu_per_minute", model] == 0
    assert found["weighbridge_desired_replicas", model] == 4


def test_health_arrives() -> None:
    found = samples()
    replica = (("domain", "r1"), ("model", "m"), ("replica", "10.0.0.1:8000"))
    assert found["weighbridge_replica_share", replica] == 0.25
    assert found["weighbridge_replica_speed", replica] == 0.2
    assert found["weighbridge_replica_foreign_mu", replica] == 77
    assert found["weighbridge_replica_restarts_total", ()] == 6
    slow = (("cause", "slow"), ("state", "ejected"))
    assert found["weighbridge_health_changes_total", slow] == 3
    assert found["weighbridge_loop_age_seconds", (("loop", "assigner"),)] == 5
    assert found["weighbridge_loop_age_seconds", (("loop", "health"),)] == 1
    assert found["weighbridge_loop_failures_total", (("loop", "runtime"),)] == 2


def test_a_refused_file_and_sources_that_tell_nothing_arrive() -> None:
    found = samples()
    assert found["weighbridge_config_reload_success", ()] == 0
    assert found["weighbridge_config_reload_timestamp_seconds", ()] == 1.7e9
    assert found["weighbridge_config_reload_refusals_total", ()] == 3
    assert found["weighbridge_polls_skipped_total", (("reason", "unsent"),)] == 4
    up = {
        source: found["weighbridge_discovery_up", (("source", source),)]
        for source in ("told", "silent", "failing")
    }
    assert up == {"told": 1, "silent": 0, "failing": 0}, "not up before the first list"


def test_a_model_that_has_lost_its_replicas_is_still_told_of() -> None:
    status = STATUS | control_plane(STATUS, Config(), View())
    told = [status, status | {"replicas": []}]
    metrics = Metrics(lambda: told.pop(0))
    metrics.text()
    found = {
        (sample.name, sample.labels.get("state")): sample.value
        for family in families(metrics.text())
        for sample in family.samples
    }
    assert found["weighbridge_replicas", "healthy"] == 0
    assert found["weighbridge_replicas", "ejected"] == 0


def core(replicas: int) -> Core:
    core = Core(json.dumps({"profiles": [PROFILE]}))
    endpoints = [f"10.{index >> 8}.{index & 255}.1:80" for index in range(replicas)]
    pool = [{"endpoint": endpoint, "profile": "p"} for endpoint in endpoints]
    core.set_replicas(json.dumps(pool))
    return core


def count(replicas: int) -> int:
    text = Metrics(lambda: snapshot(core(replicas), Config(), View())).text()
    return sum(len(family.samples) for family in families(text))


def test_a_thousand_replicas_cost_a_bounded_number_of_series() -> None:
    few, many = count(10), count(1000)
    assert (many - few) / 990 <= 22, "series a replica"
    assert few <= 400, "series beside"


def test_the_catalogue_is_what_is_exported() -> None:
    # Prometheus' text format has no infos: one is a gauge that ends in `_info`.
    known = {one.shown_name if one.kind == "info" else one.name: one for one in CATALOGUE}
    status = STATUS | control_plane(STATUS, Config(), View())
    exported = [
        family
        for family in families(Metrics(lambda: status).text())
        if not family.name.startswith(("process_", "python_"))
    ]
    assert {family.name for family in exported} == set(known)
    for family in exported:
        spec = known[family.name]
        kind = "gauge" if spec.kind == "info" else spec.kind
        assert (family.type, family.documentation) == (kind, spec.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels)


def test_what_the_process_takes_is_exported() -> None:
    names = {
        family.name
        for family in families(
            Metrics(lambda: STATUS | control_plane(STATUS, Config(), View())).text()
        )
    }
    assert {
        "process_resident_memory_bytes",
        "process_cpu_seconds",
        "process_open_fds",
        "process_start_time_seconds",
        "python_gc_collections",
    } <= names


def test_names_follow_the_conventions() -> None:
    for one in CATALOGUE:
        assert re.fullmatch(r"(weighbridge|gen_ai)(_[a-z]+)+", one.name)
        assert not one.name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))
        if one.kind == "histogram":
            assert one.name.endswith("_seconds")
