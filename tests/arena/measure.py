"""Figures of one run of one contestant: latency, goodput, cache, the router's CPU."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.arena.setting import Objective
from weighbridge.traffic import Outcome

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


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
    # As the replicas counted.
    cache_hit_ratio: float
    work_max_over_mean: float
    router_cpu_s_per_1000: float
    # In real time.
    added_p50_ms: float
    # Share of all cores' time that was used while it ran, by whomever.
    machine_busy: float

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Prompt tokens that one replica has been given, and found in its cache."""

    prompt: int
    cached: int


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
    machine_busy: float
    # By replica.
    tokens: Sequence[Tokens]


def figures(run: Run, outcomes: Sequence[Outcome]) -> Figures:
    """Sums up a run of streamed requests."""
    speed = run.speed
    done = [outcome for outcome in outcomes if outcome.is_ok and outcome.ttft_ms is not None]
    ttft = [speed * (outcome.ttft_ms or 0.0) for outcome in done]
    tpot = [speed * per_token(outcome) for outcome in done if outcome.output_tokens > 1]
    good = sum(is_good(outcome, run) for outcome in done)
    prompt = sum(each.prompt for each in run.tokens)
    work = [each.prompt - each.cached for each in run.tokens]
    return Figures(
        contestant=run.contestant,
        round=run.round,
        requests=len(outcomes),
        failed=sum(not outcome.is_ok for outcome in outcomes),
        slo_attainment=good / max(1, len(outcomes)),
        goodput_rps=good / run.span_seconds,
        ttft_p50_ms=percentile(ttft, 50),
        ttft_p99_ms=percentile(ttft, 99),
        tpot_p50_ms=percentile(tpot, 50),
        tpot_p99_ms=percentile(tpot, 99),
        cache_hit_ratio=sum(each.cached for each in run.tokens) / max(1, prompt),
        work_max_over_mean=max(work, default=0) * len(work) / max(1, sum(work)),
        router_cpu_s_per_1000=1000 * run.cpu_seconds / max(1, len(outcomes)),
        added_p50_ms=run.added_ms,
        machine_busy=run.machine_busy,
    )


def is_good(outcome: Outcome, run: Run) -> bool:
    """Whether a complete answer met both objectives."""
    first = run.speed * (outcome.ttft_ms or 0.0)
    allowed = run.objective.first_token_ms(outcome.prompt_tokens)
    return first <= allowed and run.speed * per_token(outcome) <= run.objective.tpot_ms


def per_token(outcome: Outcome) -> float:
    """ms between output tokens, as the client saw it."""
    if outcome.ttft_ms is None or outcome.output_tokens < 2:
        return 0.0
    return (outcome.total_ms - outcome.ttft_ms) / (outcome.output_tokens - 1)


def percentile(values: Sequence[float], percent: float) -> float:
    """By the nearest rank; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = max(0, min(len(ordered) - 1, round(percent / 100 * len(ordered) + 0.5) - 1))
    return ordered[rank]


def machine_ticks() -> tuple[int, int]:
    """Of all cores since the start: used, and in all."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    ticks = [int(field) for field in fields]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


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
