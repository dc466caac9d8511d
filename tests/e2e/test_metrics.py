"""Metrics after real traffic through a real Envoy: every request is timed, weighed and compared."""

import re
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.harness import Running, until

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(running: Running) -> Samples:
    url = f"{running.stack.admin_url}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        text = await response.text()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_requests_are_timed_and_predictions_compared(running: Running) -> None:
    for turn in range(6):
        reply = await running.post(
            running.chat("a long opening " * 400 + str(turn)), headers={"x-tenant-id": "acme"}
        )
        assert reply.status == 200
    await running.settled()
    model = running.stack.model
    gen_ai = frozenset({("gen_ai_request_model", model)})

    async def all_ended() -> bool:
        found = await scrape(running)
        return found["gen_ai_server_request_duration_seconds_count", gen_ai] == 6

    await until(all_ended)
    found = await scrape(running)
    assert found["weighbridge_decision_duration_seconds_count", frozenset()] == 6
    assert 0 < found["weighbridge_decision_duration_seconds_sum", frozenset()] < 6
    first = found["gen_ai_server_time_to_first_token_seconds_sum", gen_ai]
    whole = found["gen_ai_server_request_duration_seconds_sum", gen_ai]
    assert 0 < first <= whole

    def tokens(name: str, token_type: str) -> float:
        labels = frozenset({("model", model), ("token_type", token_type)})
        return found[f"weighbridge_{name}_total", labels]

    assert tokens("predictions", "input") == 6
    assert tokens("actual_tokens", "cached") > 0, "the same opening was found in the cache"
    assert tokens("predicted_tokens", "cached") > 0
    assert tokens("actual_tokens", "output") == 48
    acme = frozenset({("tenant", "acme"), ("model", model), ("token_type", "output")})
    assert found["weighbridge_tenant_tokens_total", acme] == 48
    assert found["weighbridge_desired_replicas", frozenset({("model", model)})] == 1


@pytest.mark.parametrize("transport", ["native"], indirect=True)
async def test_envoy_has_the_metrics_that_alerts_ask_of_it(running: Running) -> None:
    asked = set(re.findall(r"\benvoy_[a-z0-9_]+", ALERTS.read_text()))
    assert asked, "the alerts on a sidecar that is away ask Envoy"
    url = f"{running.stack.envoy_admin_url}/stats/prometheus"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        text = await response.text()
    # Also those that have counted nothing yet: an alert on a name that is none says nothing.
    assert asked <= set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
