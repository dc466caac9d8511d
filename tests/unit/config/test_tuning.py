"""Runtime keys: which values are taken, which are ignored, and what they change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.admin.status import runtime
from weighbridge.config.file import Config
from weighbridge.config.placing import Placing
from weighbridge.config.tuning import BY_NAME, RUNTIME_KEYS, configured, limits, parse, tuned
from weighbridge.envoy.runtime import View, read


def entries(**values: str) -> dict[str, object]:
    return {
        f"weighbridge.{name}": {"final_value": text, "layer_values": [text]}
        for name, text in values.items()
    }


def test_every_key_has_a_place_a_range_and_its_default_is_within() -> None:
    assert len(BY_NAME) == len(RUNTIME_KEYS)
    for key in RUNTIME_KEYS:
        default = configured(Config(), key)
        assert parse(key, str(default)) == default
        assert key.effect


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("spill_margin_ms", "7.5", 7.5),
        ("samples", "8", 8),
        ("observe_only", "true", True),
        ("observe_only", "0", False),
        ("admission_max_wait_ms", "0", 0),
    ],
)
def test_good_values_are_taken(name: str, text: str, value: object) -> None:
    overrides, ignored = read(entries(**{name: text}))
    assert overrides == {BY_NAME[name]: value}
    assert not ignored


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spill_margin_ms", "-1"),
        ("spill_margin_ms", "nan"),
        ("spill_margin_ms", "inf"),
        ("spill_margin_ms", "soon"),
        ("samples", "65"),
        ("samples", "2.5"),
        ("objective_tpot_ms", "0"),
        ("observe_only", "maybe"),
        ("no_such_key", "1"),
    ],
)
def test_bad_values_are_ignored_and_named(name: str, text: str) -> None:
    overrides, ignored = read(entries(**{name: text, "samples": "3"} | {name: text}))
    assert BY_NAME.get(name) not in overrides
    assert list(ignored) == [f"weighbridge.{name}"]


def test_what_is_not_ours_or_taken_back_is_nothing() -> None:
    found = read(entries(spill_margin_ms="") | {"envoy.reloadable_features.x": {}, "other": "1"})
    assert found == ({}, {})


def test_overrides_replace_their_key_alone() -> None:
    config = Config(placing=Placing(samples=9))
    overrides, _ = read(entries(spill_margin_ms="50", admission_enabled="false"))
    effective = tuned(config, overrides)
    assert effective.placing == Placing(samples=9, spill_margin_ms=50)
    assert not effective.admission.enabled
    assert effective.admission.queue == config.admission.queue
    assert tuned(config, {}) == config
    shown = runtime(config, View(reachable=True, overrides=overrides))
    assert shown["set"]["weighbridge.spill_margin_ms"] == {"value": 50, "configured": 20}


@given(st.dictionaries(st.sampled_from(sorted(BY_NAME)), st.text(max_size=20)))
def test_no_value_breaks_the_configuration(values: dict[str, str]) -> None:
    overrides, ignored = read(entries(**values))
    assert len(overrides) + len(ignored) <= len(values)
    effective = tuned(Config(), overrides)
    assert Config.model_validate(effective.model_dump()) == effective


def test_ranges_are_told() -> None:
    assert limits(Placing.model_fields["turn_gap_s"]) == "above 0 to 1,000,000.0"
