"""The benchmarks: their figures are what they say, and Envoy takes their configurations."""

import json

import pytest

from weighbridge._core import bench_body, bench_decision, bench_fill
from weighbridge.address import HostPort, UnixPath
from weighbridge.envoy import binary
from weighbridge.lab.bench import decision, gateway, transport
from weighbridge.lab.bench.profile import MODEL, profile

KEYS = {"body_bytes", "replicas", "index_blocks", "p50_us", "p99_us", "per_second_core", "gb_per_s"}


def row(body_bytes: int, replicas: int, index_blocks: int) -> dict[str, float]:
    case = {"body_bytes": body_bytes, "replicas": replicas, "index_blocks": index_blocks}
    found: dict[str, float] = json.loads(
        bench_decision(json.dumps(profile()), json.dumps(case), 0.1)
    )
    return found


def test_a_row_of_decisions_is_consistent() -> None:
    found = row(4096, 10, 20_000)
    assert found.keys() >= KEYS
    assert 0 < found["p50_us"] <= found["p99_us"]
    assert found["held_blocks"] >= 20_000
    # Bytes a second are bodies a second times their size.
    assert found["gb_per_s"] == pytest.approx(found["per_second_core"] * found["body_bytes"] / 1e9)


def test_an_index_that_cannot_hold_what_is_asked_for_ends_the_filling() -> None:
    case = {"body_bytes": 4096, "replicas": 1, "index_blocks": 6_000_000}
    filled = bench_fill(json.dumps(profile()), json.dumps(case), 0)
    assert 0 < filled.index_blocks() < 6_000_000


def test_longer_bodies_of_a_session_begin_with_the_shorter_ones() -> None:
    short, long = (
        json.loads(bench_body(MODEL, 7, size))["messages"] for size in (8 << 10, 32 << 10)
    )
    assert long[: len(short) - 1] == short[:-1]
    other = json.loads(bench_body(MODEL, 8, 8 << 10))["messages"]
    assert other[0] != short[0]


def test_every_case_is_asked_for_once() -> None:
    cases = [tuple(case.values()) for case in decision.cases()]
    assert len(cases) == len(set(cases)) == 30
    assert (4096, 1000, 1_000_000) in cases


def test_a_figure_is_the_median_of_the_rounds() -> None:
    rounds = [{"rps": rps, "p50_ms": 1.0, "sidecar_cpu_us": 20.0} for rps in (5.0, 100.0, 6.0)]
    assert transport.medians(rounds)["rps"] == 6


@pytest.mark.parametrize("sidecar", [None, UnixPath("/run/bench.sock")])
@pytest.mark.parametrize("upstream", [None, HostPort("127.0.0.1", 9000)])
def test_envoy_takes_the_configuration(sidecar: UnixPath | None, upstream: HostPort | None) -> None:
    listen, admin = HostPort("127.0.0.1", 8999), HostPort("127.0.0.1", 8998)
    text = gateway.gateway(listen, admin, sidecar, upstream)
    assert ("ext_proc" in text) == (sidecar is not None)
    binary.validate_text(binary.find(), text, ".json")
    binary.validate_text(binary.find(), gateway.answering(listen, admin), ".json")
