"""`weighbridge bench transport` on a small scale: every server answers, and its cost is seen."""

import shutil

import pytest

from weighbridge.lab.bench import transport

NAMES = ["none", "constant", "native", "grpcio"]


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
async def test_all_servers_are_measured_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CASES", ((1 << 10, 4, 8), (2 << 10, 4, 8)))
    monkeypatch.setattr(transport, "UPSTREAM_CASE", (1 << 10, 2, 8))
    result = await transport.run(transport.Options(seconds=1, rounds=1), lambda _: None)
    assert [row["name"] for row in result["rows"]] == NAMES * 2
    assert [row["name"] for row in result["upstream"]] == ["none", "native", "grpcio"]
    for row in result["rows"] + result["upstream"]:
        assert row["rps"] > 0
        assert row["envoy_cpu_us"] > 0
        assert (row["sidecar_cpu_us"] > 0) == (row["name"] != "none")
