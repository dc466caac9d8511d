"""Predicts what clients in a closed loop see of an engine with in-flight batching.

Not an engine for studies (the simulator has that): only what is needed to ask whether fitted
coefficients foretell a load that they were not fitted on.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from weighbridge.calibrate.fit.steps import StepModel

Shape = tuple[int, int, int]
"""Prompt, cached and output tokens."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine holds at once."""

    max_batch_size: int
    max_num_tokens: int
    kv_tokens: int


@dataclass(slots=True)
class Job:
    """One request in the engine."""

    client: int
    prompt: int
    cached: int
    output: int
    arrived: float
    computed: int = 0
    generated: int = 0

    @property
    def kv(self) -> int:
        """Tokens of its worst case."""
        return self.prompt + self.output


@dataclass(slots=True)
class Engine:
    """The requests by phase, and the time."""

    step: StepModel
    limits: Limits
    waiting: deque[Job] = field(default_factory=deque)
    prefilling: list[Job] = field(default_factory=list)
    generating: list[Job] = field(default_factory=list)
    kv: int = 0

    def iterate(self) -> tuple[float, list[Job]]:
        """Runs an iteration: its time, and who is done at its end."""
        chunks = self._chunks()
        time = self._time(chunks)
        for job in self.generating:
            job.generated += 1
        for job, tokens in chunks:
            job.computed += tokens
        for job in [job for job, _ in chunks if job.computed >= job.prompt]:
            job.generated = 1
            self.prefilling.remove(job)
            self.generating.append(job)
        done = [job for job in self.generating if job.generated >= job.output]
        self.generating = [job for job in self.generating if job.generated < job.output]
        self.kv -= sum(job.kv for job in done)
        return time, done

    def _chunks(self) -> list[tuple[Job, int]]:
        budget = self.limits.max_num_tokens - len(self.generating)
        chunks: list[tuple[Job, int]] = []
        for job in self.prefilling:
            tokens = min(budget, job.prompt - job.computed)
            if tokens > 0:
                chunks.append((job, tokens))
                budget -= tokens
        while self.waiting and budget > 0:
            running = len(self.generating) + len(self.prefilling)
            job = self.waiting[0]
            fits = self.kv + job.kv <= self.limits.kv_tokens or running == 0
            if running >= self.limits.max_batch_size or not fits:
                break
            self.waiting.popleft()
            self.kv += job.kv
            job.computed = job.cached
            self.prefilling.append(job)
            tokens = min(budget, job.prompt - job.computed)
            chunks.append((job, tokens))
            budget -= tokens
        return chunks

    def _time(self, chunks: Sequence[tuple[Job, int]]) -> float:
        batch = len(self.generating)
        time = self.step.step_ms(batch, sum(j.prompt + j.generated for j in self.generating))
        if chunks:
            time += self.step.request_ms(batch)
        for job, tokens in chunks:
            end = job.computed + tokens
            time += self.step.context_ms(end, job.computed, batch=batch)
            time -= self.step.request_ms(batch)
        return time

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to run."""
        return not (self.waiting or self.prefilling or self.generating)


def closed_loop(
    step: StepModel, limits: Limits, clients: Sequence[Sequence[Shape]], outside_ms: float
) -> list[list[float]]:
    """Latency of every request of every client, ms; `outside_ms` is spent around the engine."""
    engine = Engine(step, limits)
    left = [deque(shapes) for shapes in clients]
    latencies: list[list[float]] = [[] for _ in clients]
    arrivals: list[tuple[float, int]] = []
    half = outside_ms / 2

    def send(client: int, at: float) -> None:
        if left[client]:
            arrivals.append((at + half, client))

    for client in range(len(clients)):
        send(client, 0.0)
    now = 0.0
    while arrivals or not engine.is_idle:
        if engine.is_idle:
            now = max(now, min(arrivals)[0])
        for at, client in sorted(arrivals):
            if at <= now:
                arrivals.remove((at, client))
                prompt, cached, output = left[client].popleft()
                engine.waiting.append(Job(client, prompt, cached, output, at))
        time, done = engine.iterate()
        now += time
        for job in done:
            latencies[job.client].append(now - job.arrived + outside_ms)
            send(job.client, now + half)
    return latencies
