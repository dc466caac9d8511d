"""Figures of one run of one contestant: latency, goodput, cache, the router's CPU."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.arena.setting import Objective
from weighbridge.lab.traffic import Outcome

# Above these a run says as much of the machine as of the router: shares of cores, and of the
# objective for the first token.
MOST_BUSY = 0.85
MOST_LATE = 0.05
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. Times are in the replicas' own time: what clients saw times the emulator's speed."""

    contestant: str
    round: int
    # The trace's clock: the rate, where a goodput was searched.
    time_scale: float
    offered_rps: float
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
    # Share of one core that the client took, and how late it came to what it had to do (p99).
    driver_busy: float
    driver_late_p99_ms: float

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
    time_scale: float
    span_seconds: float
    speed: float
    objective: Objective
    cpu_seconds: float
    added_ms: float
    machine_busy: float
    driver_busy: float
    # Real time.
    driver_late_ms: Sequence[float]
    # What requests are other than chats, by number: batch, embeddings.
    kinds: Mapping[int, str]
    # By replica.
    tokens: Sequence[Tokens]


def figures(run: Run, outcomes: Sequence[Outcome]) -> Figures:
    """Sums up a run of streamed requests."""
    speed = run.speed
    done = [outcome for outcome in outcomes if outcome.is_ok]
    ttft = [speed * first_ms(outcome) for outcome in done]
    tpot = [speed * per_token(outcome) for outcome in done if outcome.output_tokens > 1]
    good = sum(is_good(outcome, run) for outcome in done)
    prompt = sum(each.prompt for each in run.tokens)
    work = [each.prompt - each.cached for each in run.tokens]
    return Figures(
        contestant=run.contestant,
        round=run.round,
        time_scale=run.time_scale,
        offered_rps=round(len(outcomes) / run.span_seconds, 4),
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
        driver_busy=run.driver_busy,
        driver_late_p99_ms=speed * percentile(run.driver_late_ms, 99),
    )


def is_good(outcome: Outcome, run: Run) -> bool:
    """Whether a complete answer met both objectives. Nobody waits for a batch's first token."""
    first = run.speed * first_ms(outcome)
    allowed = run.objective.first_token_ms(outcome.prompt_tokens)
    if run.kinds.get(outcome.number) != "batch" and first > allowed:
        return False
    return run.speed * per_token(outcome) <= run.objective.tpot_ms


def first_ms(outcome: Outcome) -> float:
    """ms to the first token; of what is not streamed, as embeddings, to the end."""
    return outcome.total_ms if outcome.ttft_ms is None else outcome.ttft_ms


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


def limits(row: Figures, objective: Objective) -> list[str]:
    """What else than the router may have made this run what it is."""
    found = []
    if row.machine_busy > MOST_BUSY:
        found.append(f"the machine was {row.machine_busy:.0%} busy")
    if row.driver_busy > MOST_BUSY:
        found.append(f"the client took {row.driver_busy:.0%} of a core")
    if row.driver_late_p99_ms > MOST_LATE * objective.ttft_ms:
        found.append(f"the client was {row.driver_late_p99_ms:.0f} ms late (p99)")
    return found


def machine_ticks() -> tuple[int, int]:
    """Of all cores since the start: used, and in all."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    ticks = [int(field) for field in fields]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes and of the children that they still have or waited for."""
    return sum(_cpu_seconds(pid) for pid in _descendants(set(pids)))


def own_cpu() -> float:
    """User and system time of this process."""
    times = os.times()
    return times.user + times.system


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
