"""What the engine's own iteration records tell of a measurement, where the replica gives them.

A client that is short of CPU sees tokens late and in bunches; the engine's clock does not care.
The records' figures are used when they agree with what the stream shows over the whole run.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import fmean, median

from weighbridge.calibrate.engine.target import Iteration

NEAR = 8
"""Iterations without context on either side by which one with context is judged."""
LEAST_WINDOW = 32
TOLERANCE = 0.02


def whole(records: Sequence[Iteration]) -> bool:
    """Whether no record is missing in between."""
    return all(after.number == before.number + 1 for before, after in pairwise(records))


def train_costs(
    records: Sequence[Iteration], batch: int, uncached: float, length: int, trains: int
) -> list[float]:
    """Extra time of a request put beside `batch` streams, ms, by train of `length` requests.

    Empty when the records do not show just these requests.
    """
    inside = [at for at, one in enumerate(records) if one.generating == batch]
    if not inside or not whole(records[inside[0] : inside[-1] + 1]):
        return []
    plain = [at for at in inside if not records[at].context_requests]
    busy = [at for at in inside if records[at].context_requests]
    train_tokens = uncached * length
    tokens = sum(records[at].context_tokens for at in busy)
    # The stream may have ended within a further train, which does not count.
    least, most = (1 - TOLERANCE) * trains, (1 + TOLERANCE) * (trains + 1)
    if len(plain) < NEAR or not least * train_tokens <= tokens <= most * train_tokens:
        return []
    costs = [0.0] * trains
    seen = 0.0
    for at in busy:
        # A prompt may be computed in several iterations: its train follows from the tokens so far.
        middle = seen + records[at].context_tokens / 2
        seen += records[at].context_tokens
        train = int(middle / train_tokens)
        if train >= trains:
            break
        costs[train] += (records[at].latency_ms - nearby(records, plain, at)) / length
    return costs


def lone_step(records: Sequence[Iteration]) -> float | None:
    """The time of a step of one stream alone, ms; None where there are too few."""
    times = [one.latency_ms for one in records if is_step(one, 1)]
    return median(times) if len(times) >= NEAR else None


def lone_prompt(records: Sequence[Iteration]) -> float | None:
    """The time of the iteration that computed a whole prompt with nothing beside it, ms."""
    times = [one.latency_ms for one in records if one.context_requests and not one.generating]
    return median(times) if times else None


def nearby(records: Sequence[Iteration], plain: Sequence[int], at: int) -> float:
    """The time of an iteration without context about there, ms."""
    before = [index for index in plain if index < at][-NEAR:]
    after = [index for index in plain if index > at][:NEAR]
    return median(records[index].latency_ms for index in (*before, *after))


def steps(
    records: Sequence[Iteration], batch: int, prompt_tokens: int, blocks: int, growth_ms: float
) -> tuple[list[float], float]:
    """Step times while all of a batch generated, by block, and their whole context on average.

    `prompt_tokens` is the batch's together; what they generated is counted from the records.
    Blocks are moved to the mean context by `growth_ms`, what a token of context adds to a step.
    """
    if not whole(records):
        return [], 0.0
    window = [at for at, one in enumerate(records) if is_step(one, batch)]
    if len(window) < LEAST_WINDOW:
        return [], 0.0
    # Each request's first token comes with its context, not with a step.
    contexts = list(accumulate((one.generating for one in records), initial=prompt_tokens + batch))
    mean = fmean(contexts[at] for at in window)
    size = len(window) / blocks
    values = []
    for block in range(blocks):
        part = window[round(block * size) : round((block + 1) * size)]
        values.append(
            fmean(records[at].latency_ms - growth_ms * (contexts[at] - mean) for at in part)
        )
    return values, mean


def is_step(record: Iteration, batch: int) -> bool:
    """Whether an iteration did nothing but generate for the whole batch."""
    return record.generating == batch and not record.context_requests
