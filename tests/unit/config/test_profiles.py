"""Profiles: shipped ones by name, others by path relative to the configuration."""

from pathlib import Path

import pytest

from weighbridge.config.profiles import (
    load_profile,
    load_profiles,
    locate,
    shipped_names,
    write_faster,
)
from weighbridge.errors import ConfigError


def test_shipped_profiles_are_found_by_name() -> None:
    names = shipped_names()
    assert names
    for name in names:
        assert load_profile(locate(name, Path("/nowhere")))["name"] == name


def test_paths_are_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("name: own\n")
    found = load_profiles(["own.yaml", "./own.yaml"][:1], tmp_path, tmp_path / "w.yaml")
    assert [profile["name"] for profile in found] == ["own"]


def test_mistakes_name_the_configuration_the_key_and_the_profile(tmp_path: Path) -> None:
    source = tmp_path / "w.yaml"
    (tmp_path / "own.yaml").write_text("name: own\n")
    (tmp_path / "nameless.yaml").write_text("models: [m]\n")
    for references, expected in (
        (["no-such"], r"w\.yaml: profiles\[0\]: no shipped profile is called 'no-such'"),
        (["own.yaml", "gone.yaml"], r"w\.yaml: profiles\[1\]: .*gone\.yaml: No such file"),
        (["nameless.yaml"], r"w\.yaml: profiles\[0\]: .*nameless\.yaml: name: must be given"),
        (["own.yaml", "./own.yaml"], r"w\.yaml: profiles\[1\]: 'own' is there already"),
    ):
        with pytest.raises(ConfigError, match=expected):
            load_profiles(references, tmp_path, source)


def test_a_faster_replica_s_profile_has_shorter_steps(tmp_path: Path) -> None:
    profile = load_profile(locate("llama-3.1-8b-fp8-h100", tmp_path))
    faster = load_profile(write_faster(profile, 4.0, tmp_path / "faster.yaml"))
    assert faster["capacity_mu_per_min"] == 4 * profile["capacity_mu_per_min"]
    steps, shorter = profile["latency"], faster["latency"]
    assert steps.keys() == shorter.keys()
    assert all(shorter[name] == pytest.approx(steps[name] / 4) for name in steps if "_ms" in name)
    assert faster["cost"] == profile["cost"]
