"""Compares a profile with the timings of live traffic, and says when to calibrate again.

The log tells of every request that went through the sidecar when it came, when its first token and
its end came, and its tokens. From that follow, at each moment, how many requests a replica
generates for and with how much context: what the profile says a step takes then is held against
what it took.
"""

import json
import sys
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, ValidationError
from pydantic import dataclasses as validated

from weighbridge.calibrate.fit.regress import BOOTSTRAPS, CONFIDENCE, Sample, fit
from weighbridge.calibrate.fit.steps import StepModel
from weighbridge.calibrate.profile import step_of
from weighbridge.errors import RefusedError

Array = NDArray[np.float64]

MOST_REQUESTS = 200_000
LEAST_OUTPUT = 8
LEAST_REQUESTS = 30
ONE_PIECE = 0.95
HOLDS, DRIFTS = 0.10, 0.20
SEED = 11
State = Literal["holds", "drifts", "is off", "unknown"]
# A name that many entries have: kept once.
Shared = Annotated[str, AfterValidator(sys.intern)]


@validated.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the log. Keys beyond these are ignored, so that the log may carry more.

    Slots and shared names: a sidecar keeps 10,000 of each profile, and as models they took 13 MB.
    """

    time: float = Field(description="When the request reached the sidecar, s since 1970.")
    replica: Shared = Field(description="`ip:port` that served it.")
    profile: Shared | None = Field(
        default=None, description="The profile that the replica runs by."
    )
    status: int = Field(default=200, description="Of the reply.")
    prompt_tokens: int = Field(ge=0, description="From usage.")
    cached_tokens: int = Field(default=0, ge=0, description="From usage.")
    output_tokens: int = Field(ge=0, description="From usage.")
    first_ms: float | None = Field(
        default=None, ge=0, description="To the first token; of streams."
    )
    total_ms: float = Field(ge=0, description="To the end of the reply.")


@dataclass(frozen=True, slots=True)
class Factor:
    """Measured ÷ predicted, with its 95 % interval."""

    value: float
    low: float
    high: float
    requests: int

    @property
    def state(self) -> State:
        """What it means."""
        if self.requests < LEAST_REQUESTS:
            return "unknown"
        # The part of the interval that is nearest to no change: doubt is no alarm.
        nearest = min(max(1.0, self.low), self.high)
        off = abs(nearest - 1.0)
        return "is off" if off > DRIFTS else "drifts" if off > HOLDS else "holds"

    def json(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "factor": round(self.value, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "requests": self.requests,
            "state": self.state,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What the log says of a profile."""

    profile: str
    requests: int
    decode: Factor
    prefill: Factor
    by_replica: dict[str, Factor]

    @property
    def recalibrate(self) -> bool:
        """Whether the profile should be measured again."""
        return "is off" in (self.decode.state, self.prefill.state)

    @property
    def verdict(self) -> str:
        """One line."""
        parts = [
            f"{what} {abs(one.value - 1):.0%} {'slower' if one.value > 1 else 'faster'}"
            for what, one in (("steps are", self.decode), ("prompts are", self.prefill))
            if one.state in ("drifts", "is off")
        ]
        if self.decode.state == self.prefill.state == "unknown":
            return f"too few timed requests to judge by ({self.requests})"
        if not parts:
            return "the profile holds"
        told = " and ".join(parts) + " than the profile says"
        if self.recalibrate:
            return f"{told}: calibrate again"
        return f"{told}: calibrate again when it suits"

    def json(self) -> dict[str, Any]:
        """As `--json` writes it."""
        return {
            "profile": self.profile,
            "requests": self.requests,
            "verdict": self.verdict,
            "recalibrate": self.recalibrate,
            "decode": self.decode.json(),
            "prefill": self.prefill.json(),
            "replicas": {name: one.json() for name, one in self.by_replica.items()},
        }


def read(paths: Iterable[Path], profile: str) -> list[Entry]:
    """The latest requests of a profile's replicas. RefusedError names file and line.

    Lines without timings or usage (failed, or cut by a kill) are passed over.
    """
    found: deque[Entry] = deque(maxlen=MOST_REQUESTS)
    for path in paths:
        try:
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    entry = parse(line, path, number)
                    if entry is not None and entry.profile in (None, profile):
                        found.append(entry)
        except (OSError, UnicodeDecodeError) as error:
            raise RefusedError(f"{path}: {error}") from None
    return list(found)


def parse(line: str, path: Path, number: int) -> Entry | None:
    """One line; None of one that tells nothing."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    try:
        return entry_of(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise RefusedError(
            f"{path}:{number}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None


def entry_of(fields: dict[str, Any]) -> Entry | None:
    """A line's content; None of one that tells nothing."""
    fields = in_our_terms(fields)
    needed = ("time", "replica", "prompt_tokens", "output_tokens", "total_ms")
    if any(fields.get(key) is None for key in needed) or fields.get("status", 200) != 200:
        return None
    if fields.get("source", "usage") != "usage":
        return None
    return Entry(**{key: value for key, value in fields.items() if value is not None})


def in_our_terms(fields: dict[str, Any]) -> dict[str, Any]:
    """The sidecar's own records tell the end on a clock of their own, and the time until then."""
    ended, took = fields.get("ended_us"), fields.get("duration_ms")
    if "time" in fields or not isinstance(ended, int | float):
        return fields
    if not isinstance(took, int | float):
        return fields
    told = {"time": ended / 1e6 - took / 1e3, "total_ms": took}
    return {**fields, **told, "first_ms": fields.get("first_token_ms")}


def check(profile: dict[str, Any], entries: Sequence[Entry]) -> Finding:
    """Holds a profile against requests. RefusedError if it has no `latency` to predict by."""
    step = step_of(profile)
    name = str(profile.get("name"))
    if step is None:
        raise RefusedError(f"profile '{name}' has no latency section to hold traffic against")
    by_replica: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_replica[entry.replica].append(entry)
    decode, first, expected = [], [], []
    factors = {}
    for replica, served in sorted(by_replica.items()):
        ratios = decode_ratios(step, served)
        decode.append(ratios)
        factors[replica] = typical(ratios)
        wanted, got = undisturbed(step, served)
        expected.append(wanted)
        first.append(got)
    return Finding(
        profile=name,
        requests=len(entries),
        decode=typical(joined(decode)),
        prefill=slope(joined(expected), joined(first)),
        by_replica=factors,
    )


def joined(parts: Sequence[Array]) -> Array:
    """One array of many."""
    return np.concatenate(parts) if parts else np.empty(0)


def decode_ratios(step: StepModel, served: Sequence[Entry]) -> Array:
    """Of each streamed request: the time between first token and end, ÷ what it should be."""
    timed = [one for one in served if one.first_ms is not None and one.output_tokens > 1]
    if not timed:
        return np.empty(0)
    begin = np.asarray([one.time * 1000 + (one.first_ms or 0.0) for one in timed])
    end = np.asarray([one.time * 1000 + one.total_ms for one in timed])
    output = np.asarray([float(one.output_tokens) for one in timed])
    context = np.asarray([one.prompt_tokens + one.output_tokens / 2 for one in timed])
    batch = mean_between(begin, end, np.ones(len(timed)))
    read_tokens = mean_between(begin, end, context)
    prefill = np.asarray(
        [
            step.context_ms(one.prompt_tokens, one.cached_tokens, batch=beside)
            for one, beside in zip(timed, batch, strict=True)
        ]
    )
    order = np.argsort(begin, kind="stable")
    total = np.concatenate(([0.0], np.cumsum(prefill[order])))
    # Whose first token came in between was computed beside it.
    between = (
        total[np.searchsorted(begin[order], end, "left")]
        - total[np.searchsorted(begin[order], begin, "right")]
    )
    steps = np.asarray(
        [step.step_ms(max(1.0, b), c) for b, c in zip(batch, read_tokens, strict=True)]
    )
    wanted = (output - 1) * steps + between
    # A reply that comes in one piece has no first token of its own.
    begun = np.asarray([one.first_ms or 0.0 for one in timed])
    whole = np.asarray([one.total_ms for one in timed])
    usable = (output >= LEAST_OUTPUT) & (end > begin) & (begun < ONE_PIECE * whole)
    ratios: Array = (end - begin)[usable] / wanted[usable]
    return ratios


def mean_between(begin: Array, end: Array, weight: Array) -> Array:
    """The mean over each interval of the weights of all intervals that cover a moment."""
    moments = np.concatenate((begin, end))
    change = np.concatenate((weight, -weight))
    order = np.argsort(moments, kind="stable")
    times, level = moments[order], np.cumsum(change[order])
    area = np.concatenate(([0.0], np.cumsum(level[:-1] * np.diff(times))))
    over = np.interp(end, times, area) - np.interp(begin, times, area)
    mean: Array = over / np.maximum(end - begin, 1e-9)
    return mean


def undisturbed(step: StepModel, served: Sequence[Entry]) -> tuple[Array, Array]:
    """Expected weight and time to first token of prompts that were computed by themselves."""
    timed = sorted((one for one in served if one.first_ms is not None), key=lambda one: one.time)
    if not timed:
        return np.empty(0), np.empty(0)
    begin = np.asarray([one.time * 1000 for one in timed])
    first = np.asarray([one.first_ms or 0.0 for one in timed])
    ends = begin + first
    latest = np.maximum.accumulate(ends)
    before = np.concatenate(([-np.inf], latest[:-1])) <= begin
    after = np.concatenate((begin[1:], [np.inf])) >= ends
    wanted = np.asarray([step.context_ms(one.prompt_tokens, one.cached_tokens) for one in timed])
    alone = before & after
    return wanted[alone], first[alone]


def typical(ratios: Array) -> Factor:
    """The median ratio, with its interval by bootstrap."""
    if not len(ratios):
        return Factor(1.0, 1.0, 1.0, 0)
    chance = np.random.default_rng(SEED)
    drawn = [float(np.median(chance.choice(ratios, size=len(ratios)))) for _ in range(BOOTSTRAPS)]
    return interval(float(np.median(ratios)), drawn, len(ratios))


def slope(wanted: Array, got: Array) -> Factor:
    """How much first tokens are later by weight, whatever they all wait for besides."""
    if len(wanted) < LEAST_REQUESTS or float(np.ptp(wanted)) <= 0:
        return Factor(1.0, 1.0, 1.0, 0)

    def fitted(chosen: NDArray[np.intp]) -> float:
        samples = [Sample((1.0, float(wanted[at])), float(got[at]), 0.0) for at in chosen]
        return fit(samples, ("besides", "weight")).values["weight"]

    chance = np.random.default_rng(SEED)
    everything = np.arange(len(wanted))
    some = everything if len(wanted) <= 2000 else chance.choice(everything, 2000, replace=False)
    drawn = [fitted(chance.choice(some, size=len(some))) for _ in range(BOOTSTRAPS // 4)]
    return interval(fitted(some), drawn, len(wanted))


def interval(value: float, drawn: Sequence[float], count: int) -> Factor:
    """A factor with the middle 95 % of its bootstrap."""
    tail = (100.0 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, (tail, 100.0 - tail))
    return Factor(value, float(min(low, value)), float(max(high, value)), count)
