"""What clients in a closed loop see, and the capacity that follows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.calibrate.fit.points import Measurement, Point, Served
from weighbridge.calibrate.fit.replay import Limits, closed_loop
from weighbridge.calibrate.fit.saturate import capacity_mu_per_min
from weighbridge.calibrate.fit.steps import Costs, StepModel

STEP = StepModel(0.0127, 0.53, 0.4, 5.2, 0.007, 0.0216)
WIDE = Limits(256, 8192, 1_000_000)


def test_a_lone_client_waits_for_its_prompt_and_its_steps() -> None:
    latency = closed_loop(STEP, WIDE, [[(1000, 0, 11)]], 3.0)[0][0]
    steps = sum(STEP.step_ms(1, 1000 + i) for i in range(1, 11))
    assert latency == pytest.approx(3.0 + 5.2 + STEP.context_ms(1000, 0) + steps, rel=1e-6)


def test_a_long_prompt_is_cut_into_budgets() -> None:
    cut = closed_loop(STEP, Limits(256, 1000, 1_000_000), [[(4000, 0, 1)]], 0.0)[0][0]
    whole = closed_loop(STEP, WIDE, [[(4000, 0, 1)]], 0.0)[0][0]
    assert cut == pytest.approx(whole + 3 * (5.2 + 0.4))


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(1, 5000), st.just(0), st.integers(1, 60)), min_size=1, max_size=4
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 16),
    st.integers(6000, 20_000),
)
def test_everyone_is_served_whatever_the_limits(
    clients: list[list[tuple[int, int, int]]], batch: int, kv: int
) -> None:
    latencies = closed_loop(STEP, Limits(batch, 512, kv), clients, 1.0)
    assert [len(one) for one in latencies] == [len(one) for one in clients]
    for told, shapes in zip(latencies, clients, strict=True):
        for latency, (prompt, cached, output) in zip(told, shapes, strict=True):
            least = STEP.context_ms(prompt, cached) + (output - 1) * 5.2
            assert latency >= least


def test_capacity_is_work_over_time() -> None:
    costs = Costs(0.01, 0.0, 0.1, 0.0)
    each = costs.mu(1000, 0, 100)
    served = tuple(
        Served(
            client=client,
            prompt=1000,
            cached=0,
            output=100,
            start_ms=turn * 500.0 + client,
            end_ms=(turn + 1) * 500.0 + client,
        )
        for client in range(10)
        for turn in range(6)
    )
    measured = Measurement(point=Point(kind="saturation", batch=10), served=served)
    # Ten clients, each two requests a second.
    assert capacity_mu_per_min(measured, costs) == pytest.approx(20 * 60 * each, rel=0.01)
