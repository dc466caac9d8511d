"""The autoscaling signal: enough replicas for MU and for KV tokens, and why so many."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from weighbridge.admin.autoscale import Signal, signal
from weighbridge.config.fleet import Autoscaling


def replica(state: str = "healthy", kv_tokens: int = 0) -> Any:
    return {
        "state": state,
        "share": 1.0,
        "capacity_mu_per_min": 60_000.0,
        "kv_capacity_tokens": 1000,
        "kv_tokens": kv_tokens,
    }


def ask(replicas: list[Any], placed: float, waiting: float = 0, **more: Any) -> Signal:
    settings = Autoscaling(target_utilisation=0.5, queue_seconds=30, **more)
    return signal(replicas, placed, waiting, settings)


def test_demand_at_the_target_is_what_counts() -> None:
    found = ask([replica()] * 2, 90_000)
    assert (found.desired_replicas, found.limited_by) == (3, "mu")
    assert found.capacity_mu == 120_000


def test_what_waits_is_to_be_served_in_time() -> None:
    assert ask([replica()], 0, waiting=30_000).queued_mu == 60_000
    assert ask([replica()], 0, waiting=30_000).desired_replicas == 2


def test_memory_may_ask_for_more_than_work() -> None:
    found = ask([replica(kv_tokens=900)] * 2, 10_000)
    assert (found.desired_replicas, found.limited_by) == (4, "kv")


def test_the_bounds_are_kept_and_named() -> None:
    assert ask([replica()], 0).limited_by == "min_replicas"
    found = ask([replica()], 1e9, max_replicas=7)
    assert (found.desired_replicas, found.limited_by) == (7, "max_replicas")


def test_without_replicas_the_least_is_asked_for() -> None:
    assert ask([], 50_000).desired_replicas == 1


def test_an_ejected_replica_is_no_capacity() -> None:
    found = ask([replica(), replica("ejected")], 40_000)
    assert (found.capacity_mu, found.open_replicas, found.desired_replicas) == (60_000, 1, 2)


@given(placed=st.floats(0, 1e8), more=st.floats(0, 1e8), waiting=st.floats(0, 1e6))
def test_more_demand_never_asks_for_fewer(placed: float, more: float, waiting: float) -> None:
    pool = [replica()] * 3
    less = ask(pool, placed, waiting, max_replicas=100_000).desired_replicas
    assert less <= ask(pool, placed + more, waiting, max_replicas=100_000).desired_replicas
