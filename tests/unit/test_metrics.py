"""Metrics: what the core reports is what Prometheus reads."""

from prometheus_client.parser import text_string_to_metric_families

from weighbridge.metrics import Metrics

STATUS = {
    "pool": 3,
    "streams": 2,
    "reasons": {"home": 7},
    "errors": {"model_not_found": 1},
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
    "usage_records_lost": 2,
    "replicas": [
        {
            "endpoint": "10.0.0.1:8000",
            "model": "m",
            "domain": "r1",
            "state": "ejected",
            "requests": 2,
            "prefill_mu": 10.5,
            "decode_mu": 4.0,
            "kv_tokens": 900,
            "capacity_mu_per_min": 60000.0,
            "served": {"requests": 9, "mu": 123.5},
        }
    ],
}


def samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = Metrics(lambda: STATUS).text().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_figure_of_the_status_arrives() -> None:
    found = samples()
    replica = (("domain", "r1"), ("model", "m"), ("replica", "10.0.0.1:8000"))
    assert found["weighbridge_streams", ()] == 2
    assert found["weighbridge_pool_number", ()] == 3
    assert found["weighbridge_decisions_total", (("reason", "home"),)] == 7
    assert found["weighbridge_refusals_total", (("code", "model_not_found"),)] == 1
    assert found["weighbridge_replica_requests_in_flight", replica] == 2
    assert found["weighbridge_replica_kv_tokens", replica] == 900
    assert found["weighbridge_replica_healthy", replica] == 0
    assert found["weighbridge_replica_mu_total", replica] == 123.5
    queue = (("model", "m"), ("priority", "standard"))
    assert found["weighbridge_queue_requests", queue] == 4
    assert found["weighbridge_queue_mu", queue] == 400
    promises = (("model", "m"), ("on", "promises"))
    assert found["weighbridge_admission_mu_in_flight", promises] == 20
    acme = (("model", "m"), ("tenant", "acme"))
    assert found["weighbridge_tenant_mu_total", acme] == 12.5
    cached = (("model", "m"), ("of", "cached"), ("tenant", "acme"))
    assert found["weighbridge_tenant_tokens_total", cached] == 60
    assert found["weighbridge_usage_records_lost_total", ()] == 2
    prefill = tuple(sorted([*replica, ("phase", "prefill")]))
    assert found["weighbridge_replica_mu_in_flight", prefill] == 10.5
