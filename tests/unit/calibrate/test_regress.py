"""The regression: non-negative, robust, honest about what it does not know."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.calibrate.fit.points import Measurement, Point
from weighbridge.calibrate.fit.regress import Sample, coefficients, fit

NAMES = ("base", "each", "square")


def samples(true: tuple[float, float, float], noise: float, seed: int) -> list[Sample]:
    """A designed experiment's samples with relative noise."""
    chance = random.Random(seed)
    found = []
    for tokens in (64, 128, 256, 512, 1024, 1500, 2048, 3000, 4096, 6000, 8192, 12000, 16384):
        features = (1.0, float(tokens), tokens * tokens / 1e6)
        value = sum(t * f for t, f in zip(true, features, strict=True))
        found.append(Sample(features, value * (1 + chance.gauss(0, noise)), 0.003 * value))
    return found


@given(
    base=st.floats(0, 20),
    each=st.floats(0.005, 0.2),
    square=st.floats(0, 3),
    seed=st.integers(0, 999),
)
def test_coefficients_are_found_and_never_negative(
    base: float, each: float, square: float, seed: int
) -> None:
    found = fit(samples((base, each, square), 0.003, seed), NAMES)
    assert min(found.values.values()) >= 0
    # What is predicted matters, also where two terms can stand for each other.
    assert max(abs(found.relative)) < 0.03


@given(seed=st.integers(0, 200), which=st.integers(0, 12), factor=st.sampled_from((0.2, 3.0, 8.0)))
def test_one_wild_measurement_does_not_sway_the_fit(seed: int, which: int, factor: float) -> None:
    clean = samples((5.0, 0.0127, 0.53), 0.003, seed)
    wild = list(clean)
    wild[which] = Sample(clean[which].features, clean[which].value * factor, clean[which].error)
    found = fit(wild, NAMES).values
    for features in ((1.0, 1000.0, 1.0), (1.0, 8000.0, 64.0)):
        true = 5.0 * features[0] + 0.0127 * features[1] + 0.53 * features[2]
        told = sum(found[n] * f for n, f in zip(NAMES, features, strict=True))
        assert told == pytest.approx(true, rel=0.06)


def test_intervals_hold_the_truth_mostly_and_grow_with_noise() -> None:
    inside = 0
    widths = []
    for seed in range(30):
        noisy = samples((5.0, 0.0127, 0.53), 0.02, seed)
        told = {c.name: c for c in coefficients(noisy, fit(noisy, NAMES), seed)}
        inside += told["each"].low <= 0.0127 <= told["each"].high
        widths.append(told["each"].uncertainty)
    quiet = samples((5.0, 0.0127, 0.53), 0.003, 1)
    assert inside >= 24
    assert coefficients(quiet, fit(quiet, NAMES), 1)[1].uncertainty < sorted(widths)[15]


def test_what_only_tiny_requests_depend_on_does_not_matter() -> None:
    found = samples((0.5, 0.0127, 0.53), 0.001, 1)
    told = {c.name: c for c in coefficients(found, fit(found, NAMES, least=5.0), 1)}
    assert not told["base"].matters
    assert told["each"].matters


def test_a_measurement_knows_its_error() -> None:
    measured = Measurement(point=Point(kind="decode"), values=(9.0, 10.0, 11.0, 50.0))
    assert measured.value == 10.5
    assert measured.error > 5
    assert Measurement(point=Point(kind="decode"), values=(9.0,)).error == 0.0
