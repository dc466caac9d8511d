"""The sidecar's own check of profiles against the usage that it writes down."""

import gc
import logging
import tracemalloc
from typing import Any

import pytest

from tests.unit.calibrate.test_drift import PROFILE, hidden, traffic
from weighbridge.admin.metrics import drift_families
from weighbridge.serve import drift
from weighbridge.serve.drift import MOST_REPLICAS, MOST_REQUESTS, DriftWatch

REPLICA = "10.0.0.1:8000"


def records(steps: float, prompts: float = 1.0) -> list[dict[str, Any]]:
    """Usage records of a replica that is slower than its profile by these factors."""
    return [
        {
            "replica": REPLICA,
            "status": 200,
            "source": "usage",
            "prompt_tokens": entry.prompt_tokens,
            "cached_tokens": 0,
            "output_tokens": entry.output_tokens,
            "first_token_ms": entry.first_ms,
            "duration_ms": entry.total_ms,
            "ended_us": round((entry.time + entry.total_ms / 1000) * 1e6),
        }
        for entry in traffic(hidden(steps, prompts))
    ]


def watch(*endpoints: str) -> DriftWatch:
    return DriftWatch(lambda: ({"p": PROFILE}, dict.fromkeys(endpoints or (REPLICA,), "p")))


def ratios(watched: DriftWatch) -> dict[tuple[str, ...], float]:
    status: Any = {"drift": watched.report()}
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in drift_families(status)
        for sample in family.metric.samples
    }


def test_a_slow_replica_shows_in_the_metrics_and_once_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = watch()
    watched.note(records(steps=1.3))
    with caplog.at_level(logging.WARNING):
        watched.check()
        watched.check()
    assert [record.getMessage() for record in caplog.records] == [
        f"profile p: {watched.report()['p']['verdict']}"
    ]
    found = ratios(watched)
    assert 1.2 < found["weighbridge_profile_drift_ratio", "p", "decode", "value"] < 1.35
    assert found["weighbridge_profile_drift_ratio", "p", "decode", "low"] > 1.2
    assert found["weighbridge_profile_drift_requests", "p", "decode"] > 100
    assert found["weighbridge_profile_recalibrate", "p"] == 1


def test_a_true_profile_asks_for_nothing() -> None:
    watched = watch()
    assert ratios(watched) == {}
    watched.note(records(steps=1.0))
    watched.check()
    assert ratios(watched)["weighbridge_profile_recalibrate", "p"] == 0


def test_only_some_replicas_are_watched_and_strangers_are_not() -> None:
    watched = watch(*(f"10.0.1.{n}:80" for n in range(MOST_REPLICAS)), REPLICA)
    watched.note(records(steps=2.0))
    watched.check()
    assert watched.report() == {}


def test_without_the_packages_of_calibrate_it_is_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drift, "_optional", lambda: None)
    watched = watch()
    watched.note(records(steps=2.0))
    watched.check()
    assert not watched.is_possible
    assert watched.report() == {}


def test_memory_is_bounded_and_small() -> None:
    watched = watch()
    few = records(steps=1.0)

    def held_mb(requests: int) -> float:
        for _ in range(requests // len(few)):
            # Each record has texts of its own, as one that was read from JSON has.
            watched.note([one | {"replica": "".join(list(REPLICA))} for one in few])
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / 2**20

    tracemalloc.start()
    try:
        empty = held_mb(0)
        full = held_mb(MOST_REQUESTS)
        assert full - empty < 4.0
        assert held_mb(MOST_REQUESTS) - full < 0.1
    finally:
        tracemalloc.stop()
