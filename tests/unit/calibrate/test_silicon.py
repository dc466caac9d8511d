"""The shipped profiles, and NVIDIA's tables that they are made of."""

import json
from pathlib import Path
from typing import Any

import pytest

from weighbridge._core import Core
from weighbridge.calibrate import silicon
from weighbridge.calibrate.fit.steps import Costs
from weighbridge.calibrate.profile import step_of
from weighbridge.calibrate.silicon_models import SERVED
from weighbridge.config.profiles import load_profile, shipped_directory
from weighbridge.errors import RefusedError

NUMBERS = ("cost", "latency")


@pytest.fixture(scope="module")
def tables() -> silicon.Tables:
    """The figures as kept beside the profiles."""
    return silicon.read(shipped_directory() / silicon.TABLES)


def test_shipped_profiles_are_what_the_tables_give(tables: silicon.Tables) -> None:
    made = silicon.build_all(tables)
    assert len(made) == len(SERVED)
    for profile in made:
        shipped = load_profile(shipped_directory() / f"{profile['name']}.yaml")
        for key in NUMBERS:
            assert shipped[key] == pytest.approx(profile[key], rel=2e-3, abs=1e-6)
        assert shipped["capacity_mu_per_min"] == pytest.approx(
            profile["capacity_mu_per_min"], rel=2e-3
        )
        same = ("source", "kv_tokens", "models", "hardware", "engine", "reference_batch", "tokens")
        assert {key: shipped[key] for key in same} == {key: profile[key] for key in same}


def test_the_core_takes_every_shipped_profile() -> None:
    paths = sorted(shipped_directory().glob("*.yaml"))
    assert len(paths) >= len(SERVED)
    for path in paths:
        Core(json.dumps({"profiles": [load_profile(path)]}))


def test_references_do_60_000_mu_a_minute_and_others_as_their_hardware() -> None:
    def capacity(name: str) -> float:
        return float(load_profile(shipped_directory() / f"{name}.yaml")["capacity_mu_per_min"])

    for one in SERVED:
        if one.reference:
            assert 54_000 < capacity(one.name) < 66_000, one.name
    assert capacity("llama-3.1-8b-fp8-b200") > 1.5 * capacity("llama-3.1-8b-fp8-h100")
    assert capacity("llama-3.1-8b-fp8-l40s") < 0.5 * capacity("llama-3.1-8b-fp8-h100")


def test_experts_are_fitted_where_there_are_some(tables: silicon.Tables) -> None:
    for one in SERVED:
        step = step_of(silicon.build(tables, one, None))
        assert step is not None
        assert (step.moe > 0) == one.mixture, one.name
        _, decode = silicon.regressions(tables, one.name)
        # Without their term the worst of these is 37 % off.
        assert max(abs(decode.fit.relative)) < (0.15 if one.mixture else 0.30)


def test_a_profile_file_tells_the_steps_it_was_made_of(tables: silicon.Tables) -> None:
    one = next(one for one in SERVED if one.mixture)
    context, decode = silicon.regressions(tables, one.name)
    _, step = silicon.step_model(context, decode)
    told = step_of(silicon.build(tables, one, None))
    assert told is not None
    for batch in (1, 20, 200):
        assert told.step_ms(batch, 1000 * batch) == pytest.approx(
            step.step_ms(batch, 1000 * batch), rel=1e-3
        )
        assert told.context_ms(900, 100, batch=batch) == pytest.approx(
            step.context_ms(900, 100, batch=batch), rel=1e-2
        )


def test_tables_survive_the_file(tables: silicon.Tables, tmp_path: Path) -> None:
    silicon.write(tmp_path / "again.csv", tables)
    assert silicon.read(tmp_path / "again.csv") == tables
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RefusedError, match="holds no figures"):
        silicon.read(tmp_path / "other.csv")


def test_a_normalised_mix_costs_the_same_everywhere(tables: silicon.Tables) -> None:
    by_name: dict[str, dict[str, Any]] = {p["name"]: p for p in silicon.build_all(tables)}
    assert Costs(**by_name["llama-3.1-8b-fp8-h200"]["cost"]) == Costs(
        **by_name["llama-3.1-8b-fp8-h100"]["cost"]
    )
