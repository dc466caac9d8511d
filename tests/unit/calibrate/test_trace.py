"""Token times: steps, noise, and what held a stream up."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.calibrate.engine.trace import hold_ups, step_ms, step_noise


def stream(
    steps: int, step: float, late: dict[int, float], jitter: float, seed: int
) -> list[float]:
    """Token times; `late` adds to all tokens from an index on."""
    chance = random.Random(seed)
    times = []
    for index in range(steps):
        held = sum(ms for at, ms in late.items() if index >= at)
        times.append(100 + step * index + held + chance.expovariate(1) * jitter)
    return times


@given(
    step=st.floats(1, 40),
    first=st.floats(0, 300),
    second=st.floats(0, 300),
    seed=st.integers(0, 1000),
)
def test_hold_ups_are_what_was_added(step: float, first: float, second: float, seed: int) -> None:
    times = stream(100, step, {30: first, 65: second}, 0.02 * step, seed)
    found = hold_ups(times, [(1, 27), (32, 62), (67, 99)], 0.0)
    assert found.step_ms == pytest.approx(step, rel=0.01)
    assert found.each_ms[0] == pytest.approx(first, abs=0.25 * step)
    assert found.each_ms[1] == pytest.approx(second, abs=0.25 * step)


def test_a_growing_context_is_not_taken_for_a_hold_up() -> None:
    growth = 0.01
    times = [5.0 * i + growth * i * i / 2 + (20.0 if i >= 30 else 0.0) for i in range(120)]
    found = hold_ups(times, [(1, 27), (32, 119)], growth)
    assert found.each_ms[0] == pytest.approx(20.0, abs=0.01)


def test_one_late_stretch_does_not_sway_the_step() -> None:
    times = stream(100, 5.0, {}, 0.1, 3)
    for index in range(40, 46):
        times[index] += 30.0
    found = hold_ups(times, [(1, 49), (50, 99)], 0.0)
    assert found.step_ms == pytest.approx(5.0, rel=0.01)
    assert abs(found.each_ms[0]) < 0.5


def test_blocks_of_a_stream_have_their_own_step() -> None:
    times = [5.0 * i for i in range(65)] + [320 + 10.0 * i for i in range(1, 65)]
    slopes, _ = step_ms(times, 0, 128, 2)
    assert slopes == pytest.approx([5.0, 10.0])


def test_noise_of_steps_is_told_from_jitter_of_arrivals() -> None:
    chance = random.Random(5)
    jittery = [5.0 * i + chance.gauss(0, 1.0) for i in range(400)]
    at, noisy = 0.0, []
    for _ in range(400):
        at += 5.0 + chance.gauss(0, 1.0)
        noisy.append(at)
    assert step_noise(jittery) < 0.4
    assert step_noise(noisy) == pytest.approx(1.0, abs=0.3)
