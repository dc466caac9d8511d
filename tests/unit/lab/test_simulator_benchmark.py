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


def test_a_policy_run_again_leaves_the_others_rows_and_says_so(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, page = places
    case = CASES[0]

    def run(case: Case, _: Path, policies: Sequence[str], __: Console) -> dict[str, Any]:
        rate = 2.0 if len(policies) > 1 else 4.0
        return {**result_of(case), **rows_of([*policies], rate)}

    monkeypatch.setattr(benchmark, "run", run)
    run_benchmark(monkeypatch, "--only", case.name, "--policies", "random,weighbridge")
    assert "run again" not in page.read_text()
    run_benchmark(monkeypatch, "--only", case.name, "--policies", "weighbridge")
    kept = json.loads(results.read_text())[case.name]
    assert [(row["policy"], row["offered_rps"]) for row in kept["rows"]] == [
        ("random", 2.0),
        ("weighbridge", 4.0),
    ]
    assert [one["of_ours"]["mean"] for one in kept["goodput"]] == [0.5, 1.0]
    assert "Rows of `weighbridge` were run again later" in page.read_text()


def rows_of(policies: Sequence[str], rate: float) -> dict[str, Any]:
    """Rows of these policies at a rate, and goodputs."""
    figures = ("slo_attainment", "cache_hit_ratio", "pooled_hit_ratio", "spills", "slices_moved")
    times = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms", "mu_max_over_mean")
    row = {**dict.fromkeys(figures, 1), **dict.fromkeys(times, 1.0), "offered_rps": rate}
    detail = {"lost": 0, "refused": 0, "unfinished": 0}
    rates = {"goodput_rps": rate, "low_rps": rate, "high_rps": rate, "seeds_rps": [rate, rate]}
    return {
        "rows": [{"policy": policy, **row} for policy in policies],
        "details": [{"policy": policy, **detail} for policy in policies],
        "goodput": [{"policy": policy, **rates, "of_ours": None} for policy in policies],
    }


def test_a_case_that_is_not_there_is_named(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError, match="no case 'x'"):
        run_benchmark(monkeypatch, "--only", "x")
