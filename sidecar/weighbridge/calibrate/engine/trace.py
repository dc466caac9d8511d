"""What a stream's token times tell: the time of a step, and where other work held it up."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HUBER = 1.5
ROUNDS = 12
LAG = 6


def step_ms(
    times: Sequence[float], first: int, last: int, blocks: int
) -> tuple[list[float], float]:
    """Time between tokens first..last in each of some blocks, and the scatter of an arrival, ms."""
    edges = np.linspace(first, last, blocks + 1).astype(int)
    slopes = []
    scatter = []
    for begin, end in pairwise(edges):
        index = np.arange(begin, end + 1, dtype=float)
        wanted = np.asarray(times[begin : end + 1], dtype=float)
        design = np.column_stack((np.ones_like(index), index - index[0]))
        solution, residuals = robust_lines(design, wanted)
        slopes.append(float(solution[1]))
        scatter.append(float(np.median(np.abs(residuals))) * 1.4826)
    return slopes, float(np.mean(scatter))


def step_noise(times: Sequence[float]) -> float:
    """How much a step's own time varies, ms: what grows with the number of steps, unlike jitter."""
    if len(times) < 3 * LAG:
        return 0.0
    arrived = np.asarray(times)
    far = float(np.var(arrived[LAG:] - arrived[:-LAG]))
    near = float(np.var(np.diff(arrived)))
    return float(max(0.0, (far - near) / (LAG - 1)) ** 0.5)


@dataclass(frozen=True, slots=True)
class HoldUps:
    """What trains of other work took from a stream."""

    each_ms: tuple[float, ...]
    """By train."""
    step_ms: float
    """The stream's own step between the trains."""
    scatter_ms: float
    """How far an arrival is from where it should be: the clock's and the network's jitter."""


def hold_ups(times: Sequence[float], quiet: Sequence[tuple[int, int]], growth_ms: float) -> HoldUps:
    """Token times to hold-ups: quiet stretches (first, last token) share one step time.

    Between two stretches lies a train; the time by which the later stretch is behind the earlier
    one's line is what the train took. `growth_ms` is by how much each step is longer than the one
    before, as the stream's own context grows.
    """
    rows = []
    wanted = []
    for number, (first, last) in enumerate(quiet):
        for index in range(first, last + 1):
            row = [float(index)] + [0.0] * len(quiet)
            row[1 + number] = 1.0
            rows.append(row)
            wanted.append(times[index] - growth_ms * index * index / 2)
    solution, residuals = robust_lines(np.asarray(rows), np.asarray(wanted))
    offsets = solution[1:]
    return HoldUps(
        each_ms=tuple(float(late) for late in np.diff(offsets)),
        step_ms=float(solution[0]),
        scatter_ms=float(np.median(np.abs(residuals))) * 1.4826,
    )


def robust_lines(design: Array, wanted: Array) -> tuple[Array, Array]:
    """Least squares with Huber weights, which arrivals that are far too late do not sway."""
    weights = np.ones(len(wanted))
    solution: Array = np.zeros(design.shape[1])
    residuals: Array = wanted
    for _ in range(ROUNDS):
        root = np.sqrt(weights)
        solution = np.asarray(
            np.linalg.lstsq(design * root[:, None], wanted * root, rcond=None)[0], dtype=float
        )
        residuals = wanted - design @ solution
        scale = float(np.median(np.abs(residuals))) * 1.4826
        if scale <= 1e-12:
            break
        away = np.maximum(np.abs(residuals) / scale, 1e-9)
        weights = np.minimum(1.0, HUBER / away)
    return solution, residuals
