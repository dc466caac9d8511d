"""A replica and a clock that exist only in the test: hidden costs, and no waiting."""

import asyncio
import math
import random
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from weighbridge.calibrate.engine.target import Activity, Answer, Ask, AskError, Iteration

T = TypeVar("T")
BLOCK = 32
TEMPLATE_TOKENS = 6
IMAGE_TOKENS = 256


class _Selector(selectors.SelectSelector):
    """Never waits: moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is not None and timeout > 0:
            self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while everyone waits."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs to the end, without any real waiting."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@dataclass(frozen=True)
class Hidden:
    """What the engine really costs, ms, and its limits."""

    prefill_base: float = 4.7
    per_tok: float = 0.0127
    per_tok2_e6: float = 0.53
    decode_base: float = 5.2
    per_seq: float = 0.007
    per_ktok: float = 0.0216
    moe: float = 0.0
    moe_batch: float = 1.0
    image: float = 8.0
    noise: float = 0.02
    jitter: float = 0.3
    outside: float = 3.0
    max_batch: int = 256
    max_num_tokens: int = 8192
    kv_tokens: int = 990_000
    extra: Callable[[float, float], float] = lambda _context_tokens, _now: 0.0
    """Any further cost of an iteration: of its context tokens and the time."""

    def experts(self, batch: float) -> float:
        """What the experts that a batch touches add."""
        return self.moe * -math.expm1(-batch / self.moe_batch)

    def iteration(self, work: "Work", now: float) -> float:
        """The time of an iteration, without noise."""
        base = self.prefill_base if work.context else 0.0
        if work.batch:
            base = max(base, self.decode_base + self.experts(work.batch))
        return (
            base
            + self.per_tok * work.context
            + self.per_tok2_e6 * work.squares / 1e6
            + self.image * work.tiles
            + self.per_seq * work.batch
            + self.per_ktok * work.read / 1000
            + self.extra(work.context, now)
        )


@dataclass
class Work:
    """What one iteration computes."""

    context: float = 0.0
    squares: float = 0.0
    tiles: int = 0
    batch: int = 0
    read: float = 0.0


@dataclass
class _Job:
    prompt: int
    cached: int
    output: int
    tiles: int
    answer: asyncio.Future[None]
    stream: "VirtualStream | None" = None
    computed: int = 0
    generated: int = 0


class VirtualStream:
    """What the client sees of a streamed answer."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.news = asyncio.Event()
        self.task: asyncio.Task[Answer] | None = None

    async def wait(self, tokens: int) -> bool:
        while len(self.times) < tokens:
            assert self.task is not None
            if self.task.done():
                return False
            self.news.clear()
            await self.news.wait()
        return True

    async def finish(self) -> Answer:
        assert self.task is not None
        return await self.task


@dataclass
class VirtualReplica:
    """Speaks the experiment's protocol; its engine batches in flight as real ones do."""

    hidden: Hidden
    seed: int = 1
    tells: bool = True
    longest: int = 1 << 30
    foreign: int = 0
    chance: random.Random = field(init=False)
    waiting: list[_Job] = field(default_factory=list)
    running: list[_Job] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    records: list[Iteration] = field(default_factory=list)
    number: int = 0
    engine: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def now(self) -> float:
        return asyncio.get_running_loop().time() * 1000

    async def sleep(self, ms: float) -> None:
        await asyncio.sleep(ms / 1000)

    async def ask(self, ask: Ask) -> Answer:
        return await self._serve(ask, None)

    async def open(self, ask: Ask) -> VirtualStream:
        stream = VirtualStream()
        stream.task = asyncio.create_task(self._serve(ask, stream))
        stream.task.add_done_callback(lambda _: stream.news.set())
        return stream

    async def activity(self) -> Activity | None:
        if not self.tells:
            return None
        found = Activity(active=self.peak + self.foreign, iterations=tuple(self.records))
        self.records, self.peak = [], 0
        return found

    async def _serve(self, ask: Ask, stream: VirtualStream | None) -> Answer:
        start = self.now()
        await self.sleep(self._jittered(self.hidden.outside / 2))
        shared = len(ask.shared.split())
        prompt = TEMPLATE_TOKENS + shared + len(ask.own.split()) + IMAGE_TOKENS * len(ask.images)
        if prompt + ask.output > self.longest:
            raise AskError("the prompt is too long", 400)
        cached = self.seen.get(ask.shared, 0) if ask.shared else 0
        if ask.shared:
            self.seen[ask.shared] = shared // BLOCK * BLOCK
        job = _Job(
            prompt=prompt,
            cached=cached,
            output=ask.output,
            tiles=len(ask.images),
            answer=asyncio.get_running_loop().create_future(),
            stream=stream,
            computed=cached,
        )
        self.waiting.append(job)
        if self.engine is None or self.engine.done():
            self.engine = asyncio.create_task(self._run())
        await job.answer
        await self.sleep(self._jittered(self.hidden.outside / 2))
        return Answer(
            start_ms=start,
            end_ms=self.now(),
            first_ms=stream.times[0] if stream and stream.times else None,
            prompt_tokens=prompt,
            cached_tokens=cached,
            output_tokens=ask.output,
        )

    def _jittered(self, ms: float) -> float:
        return ms + self.chance.expovariate(1 / self.hidden.jitter) if self.hidden.jitter else ms

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        at = self.now()
        while self.running or self.waiting:
            at += self._iterate(at)
            await asyncio.sleep(max(0.0, at / 1000 - loop.time()))
            self._publish(at)

    def _iterate(self, at: float) -> float:
        hidden = self.hidden
        generating = [job for job in self.running if job.computed >= job.prompt]
        self._active = generating
        budget = hidden.max_num_tokens - len(generating)
        held = sum(job.prompt + job.output for job in self.running)
        while self.waiting and len(self.running) < hidden.max_batch:
            job = self.waiting[0]
            if self.running and held + job.prompt + job.output > hidden.kv_tokens:
                break
            held += job.prompt + job.output
            self.running.append(self.waiting.pop(0))
        work = Work(batch=len(generating))
        for job in self.running:
            if job.computed >= job.prompt or budget <= 0:
                continue
            tokens = min(budget, job.prompt - job.computed)
            if job.computed == job.cached:
                work.tiles += job.tiles
            work.squares += (job.computed + tokens) ** 2 - job.computed**2
            job.computed += tokens
            work.context += tokens
            budget -= tokens
        work.read = sum(job.prompt + job.generated for job in generating)
        self.peak = max(self.peak, len(self.running) + len(self.waiting))
        noise = max(0.2, 1 + self.chance.gauss(0, hidden.noise))
        time = hidden.iteration(work, at) * noise
        self.number += 1
        record = Iteration(self.number, time, int(work.context > 0), int(work.context), work.batch)
        self.records.append(record)
        return time

    def _publish(self, at: float) -> None:
        loop = asyncio.get_running_loop()
        generating = set(map(id, self._active))
        for job in list(self.running):
            first = job.computed >= job.prompt and job.generated == 0
            if not first and id(job) not in generating:
                continue
            job.generated += 1
            if job.stream is not None:
                late = self._jittered(self.hidden.outside / 2)
                loop.call_at(at / 1000 + late / 1000, self._token, job.stream)
            if job.generated >= job.output:
                self.running.remove(job)
                job.answer.set_result(None)

    def _token(self, stream: VirtualStream) -> None:
        stream.times.append(self.now())
        stream.news.set()


__all__ = ["Hidden", "VirtualReplica", "run"]
