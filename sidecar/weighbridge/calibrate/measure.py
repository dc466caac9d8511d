"""Carries out one point of the experiment against a replica.

A prompt's weight is what it takes from others: a stream generates alone, requests are put beside
it, and the time by which its tokens are late, divided by their number, is a request's cost in
exclusive engine time. Network, HTTP and tokenising run beside the engine and do not count.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from statistics import median

from weighbridge.calibrate.engine import iterations
from weighbridge.calibrate.engine.target import Activity, Answer, Ask, Iteration, Stream, Target
from weighbridge.calibrate.engine.trace import hold_ups, step_ms
from weighbridge.calibrate.engine.words import Words
from weighbridge.calibrate.fit.points import Measurement, Point, Served
from weighbridge.calibrate.fit.steps import REFERENCE_MIX
from weighbridge.errors import RefusedError

TRAINS = 4
MOST_IN_TRAIN = 24
WANTED_ERROR = 0.02
LEAD_TOKENS = 28
GAP_TOKENS = 16
SETTLE_TOKENS = 2
LEAST_QUIET = 4
PROBE_TOKENS = 24
MOST_PROBE_TOKENS = 2000
WINDOW = 128
SKIP = 8
SINGLE_REPEATS = 5
BLOCKS = 4
COMPANION_MARGIN = 24
MOST_LEAD = 800
KV_SHARE = 0.95
ITERATIONS_BETWEEN_LOOKS = 300
LAST_LOOK_SECONDS = 0.25
LEAVE_SECONDS = 1.2
IMAGE_SIDE = 512


class UnmeasurableError(RefusedError):
    """The replica cannot run this point: it is too large for it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known so far, to size a measurement: ms, and tokens of an iteration."""

    step_ms: float
    request_ms: float
    round_trip_ms: float
    scatter_ms: float
    max_num_tokens: int
    kv_tokens: int
    noise_ms: float = 0.0
    """By how much a step's own time varies."""
    growth_ms: float = 0.0
    """By how much a step is longer for one more token of context."""


class Bench:
    """Measures points on one target."""

    def __init__(self, target: Target, words: Words) -> None:
        self.target = target
        self.words = words
        self._spent = 0
        self._flying = 0
        self._most_flying = 0
        self._foreign = 0
        self._records: list[Iteration] = []
        self._looking = asyncio.Lock()
        # How long it takes to send a request, ms: with many, the first are far ahead of the last.
        self._send_ms = 0.0

    async def measure(self, point: Point, expected: Expected) -> Measurement:
        """Carries a point out. AskError and UnmeasurableError when it cannot be."""
        self._spent = self._flying = self._most_flying = self._foreign = 0
        self._records = []
        begin = time.monotonic()
        watching = asyncio.create_task(self._watch(expected))
        try:
            result = await self._carry_out(point, expected)
        except BaseException:
            # What was given up must not be seen as someone else's in the next one.
            await asyncio.sleep(LEAVE_SECONDS)
            await self._look()
            raise
        finally:
            watching.cancel()
        return result.model_copy(
            update={
                "seconds": time.monotonic() - begin,
                "tokens": self._spent,
                "foreign": self._foreign,
            }
        )

    async def _carry_out(self, point: Point, expected: Expected) -> Measurement:
        match point.kind:
            case "context":
                return await self._context(point, expected)
            case "decode":
                return await self._decode(point, expected)
            case "single":
                return await self._single(point)
            case "loop" | "saturation":
                return await self._loop(point)

    async def _watch(self, expected: Expected) -> None:
        """Looks at the replica's records before it forgets the oldest."""
        while True:
            await self.target.sleep(ITERATIONS_BETWEEN_LOOKS * expected.step_ms)
            async with self._looking:
                self._note(await self.target.activity())

    async def _look(self) -> None:
        # The replica makes a caller wait who comes before its next record.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_LOOK_SECONDS), self._looking:
                self._note(await self.target.activity())

    def _in_order(self) -> list[Iteration]:
        return sorted(self._records, key=lambda one: one.number)

    def _note(self, activity: Activity | None) -> None:
        if activity is None:
            return
        self._foreign = max(self._foreign, activity.active - self._most_flying)
        self._records.extend(activity.iterations)

    async def _ask(self, ask: Ask) -> Answer:
        self._took_off()
        try:
            answer = await self.target.ask(ask)
        finally:
            self._flying -= 1
        return self._count(answer)

    async def _open(self, ask: Ask) -> Stream:
        self._took_off()
        return await self.target.open(ask)

    async def _finish(self, stream: Stream) -> Answer:
        try:
            return self._count(await stream.finish())
        finally:
            self._flying -= 1

    def _took_off(self) -> None:
        self._flying += 1
        self._most_flying = max(self._most_flying, self._flying)

    def _count(self, answer: Answer) -> Answer:
        self._spent += answer.prompt_tokens + answer.output_tokens
        return answer

    def _lead(self, point: Point, expected: Expected) -> int:
        """Steps by which the first of a batch may be ahead of its last."""
        ahead_ms = 2 * expected.round_trip_ms + 1.5 * point.batch * self._send_ms
        mixed = point.batch * max(1, point.prompt) // expected.max_num_tokens
        lead = COMPANION_MARGIN + int(ahead_ms / max(expected.step_ms, 0.01)) + 2 * mixed
        # Asking for more than the cache holds would keep some of them waiting.
        room = int(KV_SHARE * expected.kv_tokens / point.batch) - point.prompt - WINDOW - SKIP
        return max(COMPANION_MARGIN, min(lead, room, MOST_LEAD))

    async def _beside(self, point: Point, prompt: int, output: int) -> "Companions":
        """Starts all but one of a batch."""
        begin = self.target.now()
        tasks = [
            asyncio.create_task(self._ask(Ask(own=self.words.text(prompt), output=output)))
            for _ in range(point.batch - 1)
        ]
        if tasks:
            # Tasks begin in their order: when the last has begun, all are on their way.
            await asyncio.sleep(0)
        return Companions(tasks, output, begin)

    async def _context(self, point: Point, expected: Expected) -> Measurement:
        shared = self.words.text(point.cached) if point.cached else ""
        if shared:
            await self._ask(Ask(own=self.words.text(PROBE_TOKENS), output=1, shared=shared))
        length = train_length(expected)
        output = probe_output(expected, length, point.prompt - point.cached)
        # Made beforehand: what the client does between requests costs steps of the stream.
        asks = [self._passenger(point, shared) for _ in range(TRAINS * length)]
        companions = await self._beside(point, PROBE_TOKENS, output + self._lead(point, expected))
        async with companions:
            await self.target.sleep(expected.round_trip_ms * 2 if point.batch > 1 else 0)
            probe = await self._open(Ask(own=self.words.text(PROBE_TOKENS), output=output))
            await self._opened(probe, companions, point)
            quiet, answers = await self._trains(probe, asks, length)
            await self._finish(probe)
            companions.require_all()
            await companions.answers()
        if quiet[-1][1] < 0:
            quiet[-1] = (quiet[-1][0], min(len(probe.times), quiet[-1][0] + LEAD_TOKENS) - 1)
        found = hold_ups(probe.times, quiet, expected.growth_ms * point.batch)
        cached = [answer.cached_tokens or 0 for answer in answers]
        prompt = [answer.prompt_tokens for answer in answers]
        await self._look()
        trains = len(found.each_ms)
        costs = iterations.train_costs(
            self._in_order(), point.batch, mean(prompt) - mean(cached), length, trains
        )
        return Measurement(
            point=point,
            values=tuple(late / length for late in found.each_ms),
            engine_values=tuple(costs),
            prompt_tokens=mean(prompt),
            cached_tokens=mean(cached),
            tiles=point.tiles,
            batch=point.batch,
            control_ms=found.step_ms if point.batch == 1 else None,
            engine_control_ms=iterations.lone_step(self._records) if point.batch == 1 else None,
        )

    async def _opened(self, probe: Stream, companions: "Companions", point: Point) -> None:
        """Notes how long it took to get a whole batch on its way."""
        if await probe.wait(1) and companions.tasks:
            each = (self.target.now() - companions.begin_ms) / point.batch
            self._send_ms = max(self._send_ms, each)

    async def _trains(
        self, probe: Stream, asks: list[Ask], length: int
    ) -> tuple[list[tuple[int, int]], list[Answer]]:
        """Sends trains of requests beside a stream; answers its quiet stretches as well.

        There is one stretch more than trains, unless the stream ended within a train: that one
        is dropped.
        """
        answers: list[Answer] = []
        quiet: list[tuple[int, int]] = []
        # The first token waits for the stream's own prompt; it is no step.
        first, wanted = 1, LEAD_TOKENS
        while len(quiet) < TRAINS and await probe.wait(first + wanted):
            quiet.append((first, len(probe.times) - 1))
            begin = len(answers)
            train = [await self._ask(ask) for ask in asks[begin : begin + length]]
            first, wanted = len(probe.times) + SETTLE_TOKENS, GAP_TOKENS
            if not await probe.wait(first + LEAST_QUIET):
                break
            answers += train
        else:
            quiet.append((first, -1))
        if not answers:
            raise UnmeasurableError("the stream ended before a request beside it was answered")
        return quiet, answers

    def _passenger(self, point: Point, shared: str) -> Ask:
        images = tuple(self.words.image(IMAGE_SIDE) for _ in range(point.tiles))
        own = self.words.text(point.prompt - point.cached)
        return Ask(own=own, output=1, shared=shared, images=images)

    async def _decode(self, point: Point, expected: Expected) -> Measurement:
        companions = await self._beside(
            point, point.prompt, WINDOW + SKIP + self._lead(point, expected)
        )
        async with companions:
            await self.target.sleep(expected.round_trip_ms * 2 if point.batch > 1 else 0)
            sent = self.target.now() - companions.begin_ms
            self._send_ms = max(self._send_ms / 2, sent / point.batch)
            probe = await self._open(Ask(own=self.words.text(point.prompt), output=WINDOW + SKIP))
            answer = await self._finish(probe)
            companions.require_all()
            others = await companions.answers()
        if len(probe.times) < WINDOW // 2:
            raise UnmeasurableError("the answer is too short to be measured")
        last = len(probe.times) - 1
        slopes, _ = step_ms(probe.times, SKIP, last, BLOCKS)
        # Contexts grow by a token a step, so blocks differ: each is moved to the middle.
        growth = expected.growth_ms * point.batch * (last - SKIP) / BLOCKS
        per_event = len(probe.times) / max(1, answer.output_tokens)
        values = tuple(
            per_event * (slope - growth * (at - (BLOCKS - 1) / 2))
            for at, slope in enumerate(slopes)
        )
        middle = (SKIP + last) // 2
        await self._look()
        engine, engine_context = iterations.steps(
            self._in_order(),
            point.batch,
            answer.prompt_tokens + sum(other.prompt_tokens for other in others),
            BLOCKS,
            expected.growth_ms,
        )
        return Measurement(
            point=point,
            values=values,
            engine_values=tuple(engine),
            prompt_tokens=answer.prompt_tokens,
            batch=point.batch,
            context_tokens=answer.prompt_tokens
            + middle
            + sum(context_at(other, probe.times[middle], median(values)) for other in others),
            engine_context_tokens=engine_context,
            output_tokens=answer.output_tokens,
            notes=self._check_batch(point.batch),
        )

    def _check_batch(self, batch: int) -> tuple[str, ...]:
        most = max((one.generating for one in self._records), default=batch)
        return (f"the replica ran {most} at once, not {batch}",) if most < 0.9 * batch else ()

    async def _single(self, point: Point) -> Measurement:
        shared = self.words.text(point.cached) if point.cached else ""
        if shared:
            await self._ask(Ask(own=self.words.text(PROBE_TOKENS), output=1, shared=shared))
        firsts, totals, answers = [], [], []
        for _ in range(SINGLE_REPEATS):
            own = self.words.text(point.prompt - point.cached)
            stream = await self._open(Ask(own=own, output=point.output, shared=shared))
            answer = await self._finish(stream)
            first = answer.first_ms if answer.first_ms is not None else answer.end_ms
            firsts.append(first - answer.start_ms)
            last = stream.times[-1] if stream.times else answer.end_ms
            totals.append(last - answer.start_ms)
            answers.append(answer)
        await self._look()
        return Measurement(
            point=point,
            # Whatever delays a client only ever adds: the least is the nearest to the truth.
            values=(min(firsts),),
            prompt_tokens=mean([answer.prompt_tokens for answer in answers]),
            cached_tokens=mean([answer.cached_tokens or 0 for answer in answers]),
            engine_first_ms=self._lone_prompt(answers),
            total_ms=min(totals),
            output_tokens=mean([answer.output_tokens for answer in answers]),
        )

    def _lone_prompt(self, answers: list[Answer]) -> float | None:
        # An iteration that computed only a part of a prompt says nothing.
        uncached = {answer.prompt_tokens - (answer.cached_tokens or 0) for answer in answers}
        whole = [one for one in self._in_order() if one.context_tokens in uncached]
        return iterations.lone_prompt(whole)

    async def _loop(self, point: Point) -> Measurement:
        """`output` rounds for each of `batch` clients; the mix's shapes, or spread around them."""
        origin = self.target.now()
        served: list[Served] = []
        chance = self.words.chance()
        turns = [
            [self._shape(point, client + turn) for turn in range(point.output)]
            for client in range(point.batch)
        ]
        if point.kind == "loop":
            for shapes in turns:
                chance.shuffle(shapes)

        async def client(number: int, shapes: list[tuple[int, int]]) -> None:
            for prompt, output in shapes:
                answer = await self._ask(Ask(own=self.words.text(prompt), output=output))
                served.append(
                    Served(
                        client=number,
                        prompt=answer.prompt_tokens,
                        cached=answer.cached_tokens or 0,
                        output=answer.output_tokens,
                        start_ms=answer.start_ms - origin,
                        end_ms=answer.end_ms - origin,
                    )
                )

        try:
            async with asyncio.TaskGroup() as group:
                for number, shapes in enumerate(turns):
                    group.create_task(client(number, shapes))
        except ExceptionGroup as failed:
            raise first_of(failed) from None
        await self._look()
        return Measurement(point=point, batch=point.batch, served=tuple(served))

    def _shape(self, point: Point, number: int) -> tuple[int, int]:
        shape = REFERENCE_MIX[number % len(REFERENCE_MIX)]
        if point.kind == "saturation":
            return min(shape.prompt, point.prompt or shape.prompt), shape.output
        chance = self.words.chance()
        spread = chance.uniform(0.5, 1.6)
        prompt = min(int(shape.prompt * spread), point.prompt or shape.prompt * 2)
        return prompt, max(8, int(shape.output * chance.uniform(0.3, 1.2)))


def train_length(expected: Expected) -> int:
    """Requests in a train: the jitter of its ends and the noise of its steps stay small in it."""
    request = max(expected.request_ms, 0.05)
    steps = 2.0 + expected.round_trip_ms / max(expected.step_ms, 0.01)
    jitter = 25 * expected.scatter_ms / request
    noise = steps * (expected.noise_ms / (WANTED_ERROR * request)) ** 2 / TRAINS
    return int(min(MOST_IN_TRAIN, max(2, jitter, noise)))


def probe_output(expected: Expected, length: int, uncached: int) -> int:
    """Tokens of the stream beside which the trains run."""
    steps = 2.0 + expected.round_trip_ms / max(expected.step_ms, 0.01)
    steps += uncached / max(1, expected.max_num_tokens)
    quiet = LEAD_TOKENS + (TRAINS + 1) * (GAP_TOKENS + 2 * SETTLE_TOKENS)
    return int(min(MOST_PROBE_TOKENS, quiet + TRAINS * length * steps * 1.3))


class Companions:
    """The requests beside a measured stream; cancelled when the measurement fails."""

    def __init__(self, tasks: list[asyncio.Task[Answer]], output: int, begin_ms: float) -> None:
        self.tasks = tasks
        self.output = output
        self.begin_ms = begin_ms

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def require_all(self) -> None:
        """UnmeasurableError when one was answered before the stream that it should be beside."""
        early = [task for task in self.tasks if task.done()]
        for task in early:
            task.result()
        if early:
            raise UnmeasurableError(
                f"{len(early)} of {len(self.tasks) + 1} requests ended before the others"
            )

    async def answers(self) -> list[Answer]:
        """All answers."""
        return await asyncio.gather(*self.tasks)


def context_at(answer: Answer, at_ms: float, step: float) -> float:
    """The context of a generating request at a time before its end, tokens."""
    left = max(0.0, (answer.end_ms - at_ms) / max(step, 1e-6))
    return answer.prompt_tokens + max(0.0, answer.output_tokens - left)


def first_of(group: ExceptionGroup[Exception]) -> Exception:
    """The first failure of a group of tasks."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, ExceptionGroup) else first


def mean(values: list[int]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)
