"""Figures of one run of one contestant: latency, goodput, cache, the router's CPU."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weighbridge.traffic import Outcome

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request must meet to count as goodput, in the replicas' own time."""

    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. Times are in the replicas' own time: what clients saw times the emulator's speed."""

    contestant: str
    round: int
    requests: int
    failed: int
    slo_attainment: float
    goodput_rps: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float
    cache_hit_ratio: float
    work_max_over_mean: float
    router_cpu_s_per_1000: float
    added_p50_ms: float

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run was, beside its outcomes. The span is in the replicas' own time."""

    contestant: str
    round: int
    span_seconds: float
    speed: float
    objective: Objective
    cpu_seconds: float
    added_ms: float


def figures(run: Run, outcomes: Sequence[Outcome]) -> Figures:
    """Sums up a run.

    TTFT and TPOT can be seen of streamed requests alone; the others are left out of the share.
    """
    speed, objective = run.speed, run.objective
    streamed = [outcome for outcome in outcomes if outcome.is_ok and outcome.ttft_ms is not None]
    ttft = [speed * (outcome.ttft_ms or 0.0) for outcome in streamed]
    tpot = [speed * per_token(outcome) for outcome in streamed if outcome.output_tokens > 1]
    met = sum(
        speed * (outcome.ttft_ms or 0.0) <= objective.ttft_ms
        and speed * per_token(outcome) <= objective.tpot_ms
        for outcome in streamed
    )
    offered = sum(not outcome.is_ok for outcome in outcomes) + len(streamed)
    prompt = sum(outcome.prompt_tokens for outcome in outcomes)
    work = uncached_tokens_by_replica(outcomes)
    return Figures(
        contestant=run.contestant,
        round=run.round,
        requests=len(outcomes),
        failed=sum(not outcome.is_ok for outcome in outcomes),
        slo_attainment=met / offered if offered else 0.0,
        goodput_rps=met / offered * len(outcomes) / run.span_seconds if offered else 0.0,
        ttft_p50_ms=percentile(ttft, 50),
        ttft_p99_ms=percentile(ttft, 99),
        tpot_p50_ms=percentile(tpot, 50),
        tpot_p99_ms=percentile(tpot, 99),
        cache_hit_ratio=sum(o.cached_tokens for o in outcomes) / prompt if prompt else 0.0,
        work_max_over_mean=max(work) * len(work) / sum(work) if sum(work) else 0.0,
        router_cpu_s_per_1000=1000 * run.cpu_seconds / len(outcomes) if outcomes else 0.0,
        added_p50_ms=run.added_ms,
    )


def per_token(outcome: Outcome) -> float:
    """ms between output tokens, as the client saw it."""
    if outcome.ttft_ms is None or outcome.output_tokens < 2:
        return 0.0
    return (outcome.total_ms - outcome.ttft_ms) / (outcome.output_tokens - 1)


def uncached_tokens_by_replica(outcomes: Iterable[Outcome]) -> list[int]:
    """Prompt tokens that each replica had to compute."""
    work: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.replica:
            fresh = outcome.prompt_tokens - outcome.cached_tokens
            work[outcome.replica] = work.get(outcome.replica, 0) + fresh
    return list(work.values()) or [0]


def percentile(values: Sequence[float], percent: float) -> float:
    """By the nearest rank; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = max(0, min(len(ordered) - 1, round(percent / 100 * len(ordered) + 0.5) - 1))
    return ordered[rank]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes and of the children that they still have or waited for."""
    return sum(_cpu_seconds(pid) for pid in _descendants(set(pids)))


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICKS_PER_SECOND


def _descendants(pids: set[int]) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found
