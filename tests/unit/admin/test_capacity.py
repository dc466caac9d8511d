"""What is promised beside what there is: health and drains counted, said once, and exact."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from weighbridge.admin import autoscale
from weighbridge.admin.capacity import PromiseWatch, as_json, capacities, promised_mu, table
from weighbridge.config.admission import Admission, Tenant
from weighbridge.config.fleet import Autoscaling


def replica(state: str = "healthy", share: float = 1.0) -> dict[str, Any]:
    return {
        "model": "m",
        "state": state,
        "share": share,
        "capacity_mu_per_min": 60_000.0,
        "kv_capacity_tokens": 1000,
        "kv_tokens": 0,
    }


def status(replicas: list[dict[str, Any]], promised: float, placed: float = 0.0) -> Any:
    seen: Any = {
        "replicas": replicas,
        "assignment": {"models": {"m": {"mu_per_s": placed / 60}}},
        "admission": {"m": {"waiting": {}}, "never served": {"waiting": {}}},
    }
    settings = Autoscaling(target_utilisation=0.5)
    signals = autoscale.signals(seen, settings, promised)
    return {"autoscaling": {model: signal_of(signal) for model, signal in signals.items()}}


def signal_of(signal: autoscale.Signal) -> dict[str, Any]:
    return {name: getattr(signal, name) for name in signal.__slots__}


def test_promises_of_all_tenants_are_added_up() -> None:
    tenants = {name: Tenant(guaranteed_mu_per_min=1_000) for name in ("a", "b")}
    book = Admission(tenants=tenants, default_tenant=Tenant(guaranteed_mu_per_min=500))
    assert promised_mu(book) == 2_500
    assert promised_mu(book.model_copy(update={"enabled": False})) == 0


def test_what_is_ejected_or_drained_serves_nothing_and_what_is_probed_a_share() -> None:
    pool = [replica(), replica("ejected"), replica("draining"), replica("probing", 0.05)]
    found = capacities(status(pool, 50_000, placed=20_000))["m"]
    assert found.capacity_mu == 63_000
    assert (found.promised_mu, found.used_mu, found.free_mu) == (50_000, 20_000, 13_000)
    assert (found.replicas, found.needed_replicas, found.is_short) == (2, 2, False)


def test_a_drain_that_breaks_promises_is_said_once_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    watch = PromiseWatch()
    for states in (("healthy", "healthy"), ("healthy", "draining")):
        for _ in range(3):
            watch.look(capacities(status([replica(state) for state in states], 100_000)))
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert [one.getMessage() for one in warnings] == [
        "m: 100000 MU a minute are promised, and its replicas serve 60000: promises cannot all be "
        "kept; 4 replicas would do"
    ]
    watch.look(capacities(status([replica(), replica()], 100_000)))
    assert caplog.records[-1].getMessage() == "m: its replicas serve again what is promised"


def test_a_model_without_replicas_is_promised_nothing() -> None:
    assert capacities(status([replica()], 1.0))["never served"].promised_mu == 0


def test_the_table_has_a_row_for_each_model() -> None:
    found = capacities(status([replica()], 70_000, placed=10_000))
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table(found))
    [row] = [line.split() for line in capture.get().splitlines() if line.split()[:1] == ["m"]]
    assert row == ["m", "60,000", "70,000", "10,000", "0", "1", "3"]
    assert as_json(found)["m"]["is_short"] is True


@given(
    promised=st.floats(0, 1e7),
    placed=st.floats(0, 1e7),
    count=st.integers(1, 50),
    out=st.booleans(),
)
def test_free_is_never_promised_and_never_negative(
    promised: float, placed: float, count: int, out: bool
) -> None:
    pool = [replica("ejected" if out and at == 0 else "healthy") for at in range(count)]
    found = capacities(status(pool, promised, placed))["m"]
    assert 0 <= found.free_mu <= found.capacity_mu
    assert found.free_mu == 0 or found.free_mu + found.promised_mu <= found.capacity_mu + 1e-6
    assert found.needed_replicas * 30_000 >= max(promised, placed) - 1e-3
    assert found.is_short == (promised > found.capacity_mu)
