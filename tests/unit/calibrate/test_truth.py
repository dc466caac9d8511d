"""Engines with hidden costs: calibration finds them, and says so when its model is wrong."""

from pathlib import Path

import pytest

from tests.unit.calibrate.bench import Trial
from tests.unit.calibrate.virtual import Hidden
from weighbridge.calibrate.fit.steps import Costs
from weighbridge.calibrate.outcome import Outcome
from weighbridge.errors import RefusedError

ENGINES = {
    "usual": Hidden(),
    "long context": Hidden(per_tok=0.01, per_tok2_e6=2.5, per_ktok=0.06, noise=0.03),
    "quantised": Hidden(per_tok=0.0062, per_tok2_e6=0.28, decode_base=3.9, per_ktok=0.0093),
    "slow memory": Hidden(decode_base=14.0, per_ktok=0.15, kv_tokens=220_000, per_tok=0.04),
    "eight GPUs": Hidden(prefill_base=15.0, decode_base=12.3, per_tok=0.043, per_seq=0.04),
    "experts": Hidden(decode_base=3.0, moe=8.0, moe_batch=12.0, prefill_base=11.0),
    "small batch": Hidden(max_batch=16, max_num_tokens=2048, kv_tokens=40_000, per_seq=0.1),
}
CLOSE = 0.05


@pytest.fixture(scope="module")
def usual() -> tuple[Trial, Outcome]:
    """One calibration that several tests look at."""
    trial = Trial(Hidden(max_batch=64))
    return trial, trial.outcome()


def true_costs(hidden: Hidden, batch: float) -> dict[str, float]:
    """The coefficients of the hidden engine's profile."""
    base = hidden.decode_base + hidden.experts(batch)
    return {
        "prefill_per_tok": hidden.per_tok,
        "prefill_per_tok2_e6": hidden.per_tok2_e6,
        "decode_per_tok": base / batch + hidden.per_seq,
        "decode_per_ktok_ctx": hidden.per_ktok,
    }


def assert_close(outcome: Outcome, hidden: Hidden) -> None:
    """Every coefficient that matters within 5 %."""
    found = outcome.profile["cost"]
    idle = {one.name for one in outcome.coefficients if not one.matters}
    for name, true in true_costs(hidden, outcome.batch).items():
        assert name in idle or found[name] == pytest.approx(true, rel=CLOSE), name
    assert "prefill_per_tok" not in idle
    assert "decode_base" not in idle


@pytest.mark.parametrize("name", ENGINES)
def test_hidden_coefficients_are_found(name: str) -> None:
    hidden = ENGINES[name]
    trial = Trial(hidden)
    outcome = trial.outcome()
    assert_close(outcome, hidden)
    assert outcome.judgement.trust == "trusted", outcome.judgement.verdict
    assert outcome.judgement.median_error < 0.10
    assert trial.virtual_seconds < 600
    beyond = max(0.0, hidden.prefill_base - hidden.decode_base)
    assert abs(outcome.model.step.request - beyond) < 0.1 * hidden.decode_base


@pytest.mark.parametrize("name", ["usual", "eight GPUs"])
def test_streams_alone_tell_enough(name: str) -> None:
    outcome = Trial(ENGINES[name], tells=False).outcome()
    assert_close(outcome, ENGINES[name])
    assert outcome.judgement.median_error < 0.10


def test_images_are_weighed() -> None:
    outcome = Trial(Hidden(image=12.5), images=True).outcome()
    assert outcome.costs.image_per_tile == pytest.approx(12.5, rel=CLOSE)
    assert_close(outcome, Hidden(image=12.5))


def test_a_saturated_reference_does_about_60_000_mu_a_minute(
    usual: tuple[Trial, Outcome],
) -> None:
    _, outcome = usual
    assert 54_000 < outcome.capacity < 66_000
    assert outcome.profile["reference"] is True


def test_a_replica_twice_as_fast_has_twice_the_capacity_at_the_same_costs(
    usual: tuple[Trial, Outcome],
) -> None:
    trial, reference = usual
    slow = trial.hidden
    fast = Hidden(
        max_batch=64,
        prefill_base=slow.prefill_base / 2,
        per_tok=slow.per_tok / 2,
        per_tok2_e6=slow.per_tok2_e6 / 2,
        decode_base=slow.decode_base / 2,
        per_seq=slow.per_seq / 2,
        per_ktok=slow.per_ktok / 2,
        outside=slow.outside / 2,
    )
    outcome = Trial(fast, reference=reference.profile).outcome()
    assert outcome.profile["cost"] == reference.profile["cost"]
    assert "reference" not in outcome.profile
    assert outcome.capacity == pytest.approx(2 * reference.capacity, rel=0.05)
    latency = outcome.profile["latency"]
    assert latency["decode_base_ms"] == pytest.approx(fast.decode_base, rel=CLOSE)
    assert latency["prefill_base_ms"] == pytest.approx(fast.prefill_base, rel=0.1)


def test_a_step_in_the_cost_of_prompts_is_told_and_not_fitted_away() -> None:
    stepped = Hidden(extra=lambda context, _now: 12.0 if context > 2000 else 0.0)
    outcome = Trial(stepped).outcome()
    assert outcome.judgement.trust != "trusted"
    assert "a step of +1" in outcome.judgement.verdict
    assert "computed tokens" in outcome.judgement.warnings[0]


def test_a_curve_that_the_model_lacks_is_told() -> None:
    curved = Hidden(extra=lambda context, _now: 0.9 * context**0.5)
    outcome = Trial(curved).outcome()
    assert outcome.judgement.trust != "trusted"
    assert any("the model is" in warning for warning in outcome.judgement.warnings)


def test_a_replica_that_slows_down_meanwhile_is_told() -> None:
    throttled = Hidden(extra=lambda _context, now: 0.8 if now > 40_000 else 0.0)
    trial = Trial(throttled)
    outcome = trial.outcome()
    assert outcome.judgement.trust != "trusted"
    assert any("speed drifted" in warning for warning in outcome.judgement.warnings)
    assert any("a lone step took" in one for one in trial.said)


def test_a_replica_that_serves_others_is_not_measured() -> None:
    trial = Trial(Hidden(), foreign=3)
    with pytest.raises(RefusedError, match="busy with requests of others"):
        trial.experiment()
    assert any("3 requests of others" in one for one in trial.said)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    with pytest.raises(KeyboardInterrupt):
        Trial(Hidden(), state_path=path, stop_after=20).experiment()
    kept = path.read_text().splitlines()
    assert len(kept) > 10
    # Killed while it wrote: the last line is not whole.
    path.write_text("\n".join(kept)[:-30])
    resumed = Trial(Hidden(), seed=2, state_path=path)
    experiment = resumed.experiment()
    earlier = [one.model_dump_json() for one in experiment.state.measured[: len(kept) - 2]]
    full = Trial(Hidden(), seed=3).experiment()
    assert len(earlier) == len(kept) - 2
    assert len(experiment.state.measured) < len(full.state.measured) + 12
    points = [one.point for one in experiment.state.measured]
    assert len(points) == len({(at, point) for at, point in enumerate(points)})


def test_a_spent_token_budget_is_told() -> None:
    outcome = Trial(Hidden(), tokens=1_500_000).outcome()
    assert sum(one.tokens for one in outcome.measured) < 2_500_000
    assert any("token budget" in warning for warning in outcome.judgement.warnings)


def test_time_left_shrinks_to_nothing(usual: tuple[Trial, Outcome]) -> None:
    trial, _ = usual
    assert trial.left[0] > 0
    assert trial.left[-1] < trial.left[len(trial.left) // 2] + 1


def test_costs_of_a_step_model_share_its_base(usual: tuple[Trial, Outcome]) -> None:
    _, outcome = usual
    step = outcome.model.step
    costs = Costs.of(step, 10.0)
    assert costs.decode_per_tok == pytest.approx(step.decode_base / 10 + step.decode_per_seq)
