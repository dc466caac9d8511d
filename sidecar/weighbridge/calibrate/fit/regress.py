"""Non-negative robust regression of a linear model, with its uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MODEL_ERROR = 0.01
"""A measurement is not believed closer than this: the model itself is no better, relative."""
ROUNDS = 30
STAYS, FADES = -0.5, -1.0
"""Powers of the weight that make a far residual's pull stay, or fade."""
PASSES = 3
LOSS_AT = 2.0
"""Residuals, in standard deviations, beyond which a measurement loses its pull."""
BOOTSTRAPS = 200
CONFIDENCE = 95.0
MATTERS = 0.2


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured value with what it is explained by."""

    features: tuple[float, ...]
    value: float
    error: float
    """Standard error of the value itself."""


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A fitted coefficient with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    share: float
    """Its largest part of any measured value but the smallest: below a fifth it hardly matters."""

    @property
    def uncertainty(self) -> float:
        """Half of the interval ÷ the value; infinite where the value is 0."""
        return (self.high - self.low) / 2 / self.value if self.value > 0 else float("inf")

    @property
    def matters(self) -> bool:
        """Whether some measured request's cost depends on it."""
        return self.share >= MATTERS


@dataclass(frozen=True, slots=True)
class Fit:
    """A regression's outcome."""

    names: tuple[str, ...]
    solution: Array
    predicted: Array
    sigma: Array
    """What a residual of 1 meant, by sample."""
    relative: Array
    """(measured - predicted) ÷ predicted (`least`, if that is more), by sample."""
    scale: float
    """Spread of the residuals in the samples' own standard deviations; about 1 if it fits."""
    least: float
    """What smaller values were measured by."""
    criterion: float
    """Bayesian information criterion: lower is better."""

    @property
    def values(self) -> dict[str, float]:
        """Coefficients by name."""
        return dict(zip(self.names, (float(v) for v in self.solution), strict=True))


def sigmas(samples: Sequence[Sample], sizes: Array, least: float) -> Array:
    """What a residual of 1 means, by sample of about these sizes."""
    sized = np.maximum(np.abs(sizes), max(least, 1e-9))
    combined: Array = np.hypot(MODEL_ERROR * sized, [s.error for s in samples])
    return combined


def fit(
    samples: Sequence[Sample], names: Sequence[str], least: float = 0.0, *, exact: bool = False
) -> Fit:
    """Fits non-negative coefficients; measurements that do not agree lose their pull.

    What is smaller than `least` is measured by that: nobody can use a finer figure. `exact` values
    have no accidents among them: where they do not agree, all keep some pull.
    """
    powers = (STAYS,) if exact else (STAYS, FADES)
    design = np.asarray([s.features for s in samples], dtype=float)
    wanted = np.asarray([s.value for s in samples], dtype=float)
    predicted = wanted
    for _ in range(PASSES):
        # By the predicted size: a value that is far too low must not seem exact for it.
        sigma = sigmas(samples, predicted, least)
        solution = solve(design / sigma[:, None], wanted / sigma, powers)
        predicted = design @ solution
    residuals = (wanted - predicted) / sigma
    safe = np.maximum(np.abs(predicted), max(least, 1e-9))
    return Fit(
        names=tuple(names),
        solution=solution,
        predicted=predicted,
        sigma=sigma,
        relative=(wanted - predicted) / safe,
        scale=spread(residuals),
        criterion=information(residuals, len(names)),
        least=least,
    )


def solve(design: Array, wanted: Array, powers: Sequence[float] = (STAYS, FADES)) -> Array:
    """Non-negative coefficients by least squares whose weights follow the residuals.

    First so that the pull of a residual stays the same beyond some size, which is convex and finds
    the agreement of most; from there so that it fades, and what is far off pulls no more.
    """
    # A sidecar that has nothing to fit yet starts without it: 0.4 s and 30 MB.
    from scipy.optimize import nnls  # noqa: PLC0415

    # Columns differ by orders of magnitude: each is brought to length 1.
    lengths = np.linalg.norm(design, axis=0)
    lengths[lengths == 0] = 1.0
    scaled = design / lengths
    solution: Array = nnls(scaled, wanted)[0]
    for power in powers:
        bend = LOSS_AT * max(1.0, spread(wanted - scaled @ solution))
        for _ in range(ROUNDS):
            before = solution
            away = (wanted - scaled @ solution) / bend
            root = (1.0 + away * away) ** (power / 2)
            solution = nnls(scaled * root[:, None], wanted * root)[0]
            if np.allclose(solution, before, rtol=1e-7, atol=0.0):
                break
    return np.asarray(solution / lengths)


def spread(residuals: Array) -> float:
    """A standard deviation that outliers do not sway."""
    return float(np.median(np.abs(residuals))) * 1.4826 if len(residuals) else 0.0


def information(residuals: Array, coefficients: int) -> float:
    """The Bayesian information criterion of residuals in standard deviations, outliers capped."""
    capped = np.minimum(residuals**2, 25.0)
    count = len(residuals)
    return float(count * np.log(max(float(capped.mean()), 1e-4)) + coefficients * np.log(count))


def coefficients(samples: Sequence[Sample], fitted: Fit, seed: int) -> list[Coefficient]:
    """Intervals by the wild bootstrap: residuals change sign at random, and all is fitted again.

    A designed experiment has few points, each with its own weight; drawing points anew would
    lose some that alone tell of a coefficient.
    """
    chance = np.random.default_rng(seed)
    design = np.asarray([s.features for s in samples], dtype=float)
    wanted = np.asarray([s.value for s in samples], dtype=float)
    sigma = fitted.sigma
    weighted = design / sigma[:, None]
    # A residual is smaller than the error behind it, the more so where one point decides.
    leverage = np.clip(np.einsum("ij,ji->i", weighted, np.linalg.pinv(weighted)), 0.0, 0.9)
    residuals = (wanted - fitted.predicted) / sigma / np.sqrt(1.0 - leverage)
    # Few points may agree by luck: no residual counts for less than a sample's own error.
    least = np.asarray([s.error for s in samples]) / sigma
    sized = np.maximum(np.abs(residuals), least)
    drawn = np.empty((BOOTSTRAPS, design.shape[1]))
    for row in range(BOOTSTRAPS):
        signs = chance.choice((-1.0, 1.0), size=len(wanted))
        drawn[row] = solve(weighted, fitted.predicted / sigma + signs * sized)
    tail = (100.0 - CONFIDENCE) / 2
    low = np.percentile(drawn, tail, axis=0)
    high = np.percentile(drawn, 100.0 - tail, axis=0)
    parts = shares(samples, fitted)
    return [
        Coefficient(
            name=name,
            value=float(fitted.solution[column]),
            low=float(min(low[column], fitted.solution[column])),
            high=float(max(high[column], fitted.solution[column])),
            share=parts[column],
        )
        for column, name in enumerate(fitted.names)
    ]


def shares(samples: Sequence[Sample], fitted: Fit) -> list[float]:
    """Each coefficient's largest part of any value, the cheapest quarter of them left out.

    What only the very smallest requests depend on matters to no one.
    """
    design = np.asarray([s.features for s in samples], dtype=float)
    least = max(fitted.least, 1e-9)
    parts = design * fitted.solution / np.maximum(fitted.predicted, least)[:, None]
    counted = fitted.predicted >= np.percentile(fitted.predicted, 25)
    return [float(part) for part in parts[counted].max(axis=0)]


def covariance(samples: Sequence[Sample], fitted: Fit) -> Array:
    """Of the coefficients, as the design and the residuals' spread give it."""
    design = np.asarray([s.features for s in samples], dtype=float)
    weighted = design / fitted.sigma[:, None]
    information_matrix = weighted.T @ weighted
    spread_of = max(1.0, fitted.scale) ** 2
    inverse: Array = np.asarray(np.linalg.pinv(information_matrix, rcond=1e-12) * spread_of)
    return inverse
