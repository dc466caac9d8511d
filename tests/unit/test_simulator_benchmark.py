"""The simulator's benchmark keeps what was done, whatever happens to the rest."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.simulator import __main__ as benchmark
from tests.simulator.cases import CASES, Case
from weighbridge.errors import RefusedError


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    results, page = tmp_path / "benchmarks" / "simulator.json", tmp_path / "benchmarks.md"
    page.write_text("before\n<!-- simulator:begin -->\nold\n<!-- simulator:end -->\nafter\n")
    monkeypatch.setattr(benchmark, "RESULTS", results)
    monkeypatch.setattr(benchmark, "PAGE", page)
    return results, page


def result_of(case: Case) -> dict[str, Any]:
    slo = {"ttft_ms": 1, "ttft_ms_per_ktok": 1, "tpot_ms": 1, "share": 0.99}
    return {
        "trace": {"name": case.name, "requests": 1, "sessions": 1},
        "scenario": {
            "replicas": [{"engine": "e", "count": 1}],
            "slo": slo,
            "events": [],
            "duration_s": 1.0,
            "warmup_s": 0.0,
        },
        "rows": [],
        "details": [],
        "goodput": [],
        "ours": "weighbridge",
        "took": {"wall_s": 61, "cpu_s": 100, "cores": 2},
    }


def run_benchmark(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["simulator", *arguments])
    benchmark.main()


def test_an_interrupted_run_keeps_what_was_done_and_is_taken_up(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, page = places
    asked: list[str] = []

    def run(case: Case, _: Path, __: Sequence[str], ___: Console) -> dict[str, Any]:
        asked.append(case.name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return result_of(case)

    monkeypatch.setattr(benchmark, "run", run)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(monkeypatch)
    first, second, third = (case.name for case in CASES[:3])
    assert list(json.loads(results.read_text())) == [first, second]
    text = page.read_text()
    assert f"`{second}`" in text
    assert "took 61 s on 2 cores, and 100 CPU seconds" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    asked.clear()
    run_benchmark(monkeypatch, "--missing", "--only", f"{first},{third}")
    assert asked == [third]
    assert list(json.loads(results.read_text())) == [first, second, third]


def test_a_case_that_is_not_there_is_named(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError, match="no case 'x'"):
        run_benchmark(monkeypatch, "--only", "x")
