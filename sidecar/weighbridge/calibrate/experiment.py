"""The whole experiment on one replica: warm up, measure, refine, load it, within a budget."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from weighbridge.calibrate import design
from weighbridge.calibrate.design import Domain
from weighbridge.calibrate.engine.target import Ask, AskError, Target
from weighbridge.calibrate.engine.trace import step_ms, step_noise
from weighbridge.calibrate.fit.model import Model, fit_model, predicted
from weighbridge.calibrate.fit.points import Measurement, Point
from weighbridge.calibrate.fit.saturate import capacity_mu_per_min
from weighbridge.calibrate.fit.steps import (
    MS_PER_MINUTE,
    REFERENCE_MIX,
    Costs,
    StepModel,
    reference_batch,
)
from weighbridge.calibrate.measure import Bench, Expected, UnmeasurableError
from weighbridge.calibrate.state import State
from weighbridge.errors import RefusedError

WARM_UP_ROUNDS = 6
STEADY = 0.04
"""Two warm-up steps this close, relative, and the replica is warm."""
DRIFTED = 0.08
DOUBTFUL = 0.12
AGREE = 0.08
MOST_REPEATS = 8
TRIES = 3
LOST_IN_A_ROW = 3
PAUSE_MS = 2000.0
MOST_EXCLUDED = 12
USUAL_POINTS = 48
LEAST_RATIOS = 3
ENGINE_AGREES = 0.1
MOST_DRIFTS = 3
LEAST_OPENING = 3
SINGLES = ((64, 24), (512, 32), (256, 96), (2048, 64), (1024, 48), (4096, 32))
SATURATION_ROUNDS = (2, 3)
OVERFULL = 1.15
LESS_FULL = 0.6
POOR = 0.8
"""Work done ÷ time, at the model's own costs, below which a saturated replica wastes it."""
LOOP_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """What the experiment may take."""

    seconds: float
    tokens: int


@dataclass(slots=True)
class Experiment:
    """Measures a replica; everything that is random comes from `chance`."""

    target: Target
    bench: Bench
    state: State
    domain: Domain
    budget: Budget
    chance: random.Random
    time_scale: float = 1.0
    say: Callable[[str], None] = lambda _: None
    progress: Callable[[str, float], None] = lambda _label, _left: None
    notes: list[str] = field(default_factory=list)
    _expected: Expected | None = None
    _guess: StepModel | None = None
    _noise: list[float] = field(default_factory=list)
    _before_seconds: float = 0.0
    _begin: float = 0.0
    _lost: int = 0
    _drifts: int = 0
    _fitted: tuple[int, Model] | None = None

    async def run(self) -> None:
        """Measures until the model is certain or the budget is spent."""
        self._before_seconds = sum(one.seconds for one in self.state.measured)
        self._begin = time.monotonic()
        await self._warm_up()
        for point in design.opening(self.domain):
            if not self._has(point):
                await self._measure(point)
        for kind in ("context", "decode"):
            if sum(one.point.kind == kind for one in self.measured) < LEAST_OPENING:
                raise RefusedError(f"too few '{kind}' points could be measured to fit anything")
        await self._refine()
        await self._repeat_doubtful()
        await self._load()

    @property
    def measured(self) -> list[Measurement]:
        """What counts: foreign load and repeats that disagree are left out."""
        return usable(self.state.measured)

    def model(self) -> Model:
        """Fitted on what there is."""
        count = len(self.state.measured)
        if self._fitted is None or self._fitted[0] != count:
            self._fitted = (count, fit_model(self.measured))
        return self._fitted[1]

    def _has(self, point: Point) -> bool:
        return any(one.point == point for one in self.state.measured)

    def _seconds_left(self) -> float:
        """Of the budget; what an interrupted run spent counts, as does what was given up."""
        return self.budget.seconds - self._before_seconds - (time.monotonic() - self._begin)

    def _tokens_left(self) -> int:
        return self.budget.tokens - sum(one.tokens for one in self.state.measured)

    async def _warm_up(self) -> None:
        """Until a lone stream's steps are steady; learns what to expect of time and words."""
        self.progress("warming up", self.budget.seconds)
        before = 0.0
        for round_ in range(WARM_UP_ROUNDS):
            words = (20, 200)[round_ % 2]
            tokens, steps, scatter, first, trip = await self._lone(words)
            self.bench.words.learn(words, tokens)
            if round_ and abs(steps - before) <= STEADY * steps:
                break
            before = steps
        tokens, steps, scatter, first, trip = await self._lone(800)
        self.bench.words.learn(800, tokens)
        per_token = max(1e-6, (first - trip) / max(1, tokens))
        self._expected = Expected(
            step_ms=steps,
            request_ms=per_token * 1024,
            round_trip_ms=trip,
            scatter_ms=scatter,
            noise_ms=median(self._noise),
            max_num_tokens=self.domain.max_num_tokens,
            kv_tokens=self.domain.kv_tokens,
        )
        self._guess = StepModel(
            prefill_per_tok=per_token,
            prefill_per_tok2_e6=0.0,
            request=0.0,
            decode_base=steps,
            decode_per_seq=steps / 500,
            decode_per_ktok=steps / 250,
        )

    async def _lone(self, words: int) -> tuple[int, float, float, float, float]:
        """One stream alone: prompt tokens, step, scatter, first token and round trip, ms."""
        text = self.bench.words.text(words * self.bench.words.per_word + self.bench.words.template)
        stream = await self.target.open(Ask(own=text, output=48))
        answer = await stream.finish()
        if answer.output_tokens < 24 or len(stream.times) < 24:
            raise RefusedError(
                f"the replica answers with {answer.output_tokens} tokens where 48 were asked:"
                " it must take ignore_eos and min_tokens, or answer at length by itself"
            )
        slopes, scatter = step_ms(stream.times, 4, len(stream.times) - 1, 1)
        self._noise.append(step_noise(stream.times[4:]))
        brief = await self.target.ask(Ask(own=self.bench.words.text(24), output=1))
        first = (answer.first_ms or answer.end_ms) - answer.start_ms
        trip = max(0.0, brief.end_ms - brief.start_ms - slopes[0])
        return answer.prompt_tokens, slopes[0], scatter, first, trip

    def _expect(self, point: Point) -> Expected:
        return design.sized_for(point, self._step(), self._known())

    def _step(self) -> StepModel:
        """The best model so far: the fitted one, once there is enough."""
        if self._guess is None:
            raise RuntimeError("nothing is measured before the replica is warm")
        measured = [one for one in self.measured if not one.point.held_out]
        enough = all(
            sum(one.point.kind == kind for one in measured) >= 4 for kind in ("context", "decode")
        )
        return self.model().step if enough else self._guess

    async def _measure(self, point: Point) -> Measurement | None:
        """One point, again if others used the replica or if it drifted; None if it cannot be."""
        expected = self._expect(point)
        for attempt in range(TRIES):
            self.progress(point.label(), self._left(point))
            try:
                found = await self.bench.measure(point, expected)
            except UnmeasurableError as error:
                if not attempt:
                    continue
                self.say(f"{point.label()}: {error}; left out")
                return None
            except AskError as error:
                if not error.is_refusal:
                    raise
                self.say(f"{point.label()}: refused ({error}); left out")
                return None
            self.state.add(found)
            for note in found.notes:
                self.say(f"{point.label()}: {note}")
            if self._lacks_records(found) and attempt + 1 < TRIES:
                continue
            if found.foreign > 0:
                self.say(
                    f"{point.label()}: {found.foreign} requests of others were there;"
                    f" {'measured again' if attempt + 1 < TRIES else 'left out'}"
                )
                await self.target.sleep(PAUSE_MS)
                continue
            if self._has_drifted(found):
                self.say(f"{point.label()}: a lone step took {found.control:.2f} ms; again")
                continue
            self._lost = 0
            return found
        self._lost += 1
        if self._lost >= LOST_IN_A_ROW:
            raise RefusedError(
                "the replica is busy with requests of others: calibrate it when it is idle"
                " (what was measured is kept, the same command goes on from it)"
            )
        return None

    def _lacks_records(self, found: Measurement) -> bool:
        """Whether the engine's records, which are there for others, are missing for this one."""
        others = [one for one in self.state.measured if one.point.kind in ("context", "decode")]
        have = sum(bool(one.engine_values) for one in others)
        ours = found.point.kind in ("context", "decode") and not found.engine_values
        return ours and have >= LEAST_RATIOS and have > len(others) / 2

    def _has_drifted(self, found: Measurement) -> bool:
        controls = [one.control for one in self.measured if one.control is not None]
        if found.control is None or len(controls) < 4:
            return False
        usual = median(controls)
        if abs(found.control - usual) <= DRIFTED * usual:
            return False
        # Once or twice is an accident; then it is so, and the judge will say it.
        self._drifts += 1
        return self._drifts <= MOST_DRIFTS

    async def _refine(self) -> None:
        excluded: set[Point] = set()
        while len(excluded) < MOST_EXCLUDED:
            measured = self.measured
            model = self.model()
            point = design.next_point(
                self.domain,
                model,
                measured,
                self._known(),
                self.chance,
                excluded=frozenset(excluded),
            )
            if point is None:
                return
            cost = design.cost_ms(point, model.step, self._known()) / 1000 / self.time_scale
            if self._seconds_left() - self._reserve(model.step) < cost:
                self.notes.append("the time budget ended before all coefficients were certain")
                return
            if self._tokens_left() < self._reserved_tokens():
                self.notes.append("the token budget ended before all coefficients were certain")
                return
            if await self._measure(point) is None:
                excluded.add(point)

    def _known(self) -> Expected:
        if self._expected is None:
            raise RuntimeError("nothing is measured before the replica is warm")
        return self._expected

    def _left(self, point: Point) -> float:
        """Seconds of work still planned, about."""
        step = self._step()
        done = sum(one.point.kind in ("context", "decode") for one in self.measured)
        usual = median([one.seconds for one in self.state.measured[-8:]] or [1.0])
        wanted = max(2, USUAL_POINTS - done) if point.kind in ("context", "decode") else 0
        planned = wanted * usual + self._reserve(step)
        return max(0.0, min(planned, self._seconds_left()))

    def _reserve(self, step: StepModel) -> float:
        """Seconds to keep for what comes last: requests alone, under load, at saturation."""
        points = [p for p in self._last_points(SATURATION_ROUNDS[0]) if not self._has(p)]
        ms = sum(design.cost_ms(point, step, self._known()) for point in points)
        return ms / 1000 / self.time_scale

    def _reserved_tokens(self) -> int:
        each = sum(shape.prompt + shape.output for shape in REFERENCE_MIX) / len(REFERENCE_MIX)
        points = [p for p in self._last_points(SATURATION_ROUNDS[0]) if not self._has(p)]
        return int(sum(p.batch * p.output * each for p in points if p.kind != "single"))

    def _last_points(self, rounds: int) -> list[Point]:
        longest = self.domain.max_prompt
        points = [
            Point(kind="single", prompt=min(prompt, longest), output=output, held_out=index > 1)
            for index, (prompt, output) in enumerate(SINGLES)
        ]
        clients = self._clients()
        points += [
            Point(kind="loop", prompt=longest, batch=batch, output=LOOP_ROUNDS, held_out=True)
            for batch in sorted({max(1, clients // 16), max(2, clients // 4)})
        ]
        full = max(2, int(clients * OVERFULL))
        points.append(Point(kind="saturation", prompt=longest, batch=full, output=rounds))
        return points

    def _clients(self) -> int:
        """Requests of the mix that the replica holds at once."""
        each = sum(shape.prompt + shape.output for shape in REFERENCE_MIX) / len(REFERENCE_MIX)
        return int(max(1, min(self.domain.max_batch, self.domain.kv_tokens / each)))

    async def _repeat_doubtful(self) -> None:
        """Points far from the model are measured again: an accident, or the model is wrong."""
        for _ in range(MOST_REPEATS):
            model = self.model()
            point = doubtful(model, self.state.measured)
            if point is None or self._seconds_left() < self._reserve(model.step):
                return
            if await self._measure(point) is None:
                return

    async def _load(self) -> None:
        """Requests alone and under load, then saturation."""
        step = self.model().step
        few, many = SATURATION_ROUNDS
        saturation = self._last_points(many)[-1]
        left = self._seconds_left() - self._reserve(step)
        full = design.cost_ms(saturation, step, self._known()) / 1000 / self.time_scale
        rounds = (
            many if left > full / 2 and self._tokens_left() > 2 * self._reserved_tokens() else few
        )
        for point in self._last_points(rounds):
            done = sum(one.point == point for one in self.state.measured)
            wanted = sum(one == point for one in self._last_points(rounds))
            if done < wanted:
                await self._measure(point)
        await self._load_less(saturation, step)

    async def _load_less(self, full: Point, step: StepModel) -> None:
        """A replica that does far less than its steps add up to is overfull: again with fewer."""
        batch = reference_batch(self.domain.kv_tokens, self.domain.max_batch)
        less = full.model_copy(update={"batch": max(1, int(full.batch * LESS_FULL))})
        runs = [one for one in self.measured if one.point.kind == "saturation"]
        if runs and not self._has(less):
            reached = capacity_mu_per_min(runs[-1], Costs.of(step, batch)) / MS_PER_MINUTE
            if reached < POOR:
                self.say(f"{full.label()}: only {reached:.0%} of what its steps add up to")
                await self._measure(less)


def usable(measured: Sequence[Measurement]) -> list[Measurement]:
    """Measurements without foreign load; of repeats those that agree with their median.

    By the engine's own clock, where it keeps one that agrees with the streams.
    """
    clean = [one for one in measured if one.foreign <= 0]
    if engine_agrees(clean):
        clean = [
            one.by_engine()
            for one in clean
            if one.engine_values or one.point.kind not in ("context", "decode")
        ]
    else:
        clean = [one.by_streams() for one in clean]
    groups: dict[Point, list[Measurement]] = {}
    for one in clean:
        groups.setdefault(one.point, []).append(one)
    kept = []
    for one in clean:
        group = groups[one.point]
        if one.values and len(group) > 2:
            usual = median([other.value for other in group])
            if abs(one.value - usual) > AGREE * abs(usual):
                continue
        kept.append(one)
    return kept


def engine_agrees(measured: Sequence[Measurement]) -> bool:
    """Whether the engine's records tell of steps what the streams tell.

    Over a hundred steps a late token more or less does not count, so that also a client short of
    CPU can tell whether the records are on its clock. Only a difference beyond the streams' own
    scatter speaks against them.
    """
    both = [one for one in measured if one.point.kind == "decode" and one.engine_values]
    ratios = [one.by_engine().value / one.value for one in both if one.value > 0]
    if len(ratios) < LEAST_RATIOS:
        return False
    usual = median(ratios)
    scatter = 1.4826 * median([abs(ratio - usual) for ratio in ratios])
    most = max(ENGINE_AGREES, 3 * scatter / len(ratios) ** 0.5)
    return bool(abs(usual - 1.0) <= most)


def doubtful(model: Model, measured: Sequence[Measurement]) -> Point | None:
    """The point that is furthest from the model and has not been measured three times."""
    clean = [one for one in measured if one.foreign <= 0]
    worst: tuple[float, Point] | None = None
    for one in usable(measured):
        if one.point.kind not in ("context", "decode") or not one.values:
            continue
        if sum(other.point == one.point for other in clean) >= TRIES:
            continue
        wanted = predicted(model.step, one)
        off = abs(one.value - wanted) / max(wanted, model.step.step_ms(1, 0))
        if off > DOUBTFUL and (worst is None or off > worst[0]):
            worst = (off, one.point)
    return worst[1] if worst else None
