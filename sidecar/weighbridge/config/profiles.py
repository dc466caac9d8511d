"""Finds and reads profiles: those that the package ships, by name, and files, by path."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from weighbridge.config.problems import bounded, did_you_mean
from weighbridge.config.reading import read_yaml
from weighbridge.errors import ConfigError
from weighbridge.process.watch import require_regular


def shipped_directory() -> Path:
    """Where the profiles of the package lie (tensorrt_backends/profiles in the repository)."""
    return Path(str(resources.files("weighbridge"))) / "profiles"


def shipped_names() -> list[str]:
    """Names of the shipped profiles, in order."""
    return sorted(path.stem for path in shipped_directory().glob("*.yaml"))


def locate(reference: str, base: Path) -> Path:
    """A profile's file: a path relative to `base` if it looks like one, else a shipped name."""
    if "/" in reference or reference.endswith((".yaml", ".yml")):
        return base / reference
    path = shipped_directory() / f"{reference}.yaml"
    if not path.is_file():
        names = shipped_names()
        hint = did_you_mean(reference, names) or f" (there are: {', '.join(names) or 'none'})"
        raise ConfigError(f"no shipped profile is called '{reference}'{hint}")
    return path


def load_profile(path: Path) -> dict[str, Any]:
    """One profile as its file gives it; the core checks its coefficients."""
    # A running sidecar reads it again at each reload.
    require_regular(path)
    profile = read_yaml(path)
    name = profile.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path}: name: must be given")
    return profile


def write_faster(profile: dict[str, Any], speed: float, path: Path) -> Path:
    """Writes the profile of such replicas that run `speed` times as fast; its file."""
    faster = profile | {"capacity_mu_per_min": profile["capacity_mu_per_min"] * speed}
    if "latency" in profile:
        faster["latency"] = {
            name: value / speed if name.endswith("_ms") else value
            for name, value in profile["latency"].items()
        }
    path.write_text(yaml.safe_dump(faster, sort_keys=False), encoding="utf-8")
    return path


def load_profiles(references: Iterable[str], base: Path, source: Path) -> list[dict[str, Any]]:
    """All profiles that a configuration (`source`) names, in its order.

    ConfigError tells all that is wrong with any of them.
    """
    found: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    for index, reference in enumerate(references):
        key = f"{source}: profiles[{index}]"
        try:
            profile = load_profile(locate(reference, base))
        except ConfigError as error:
            wrong += [f"{key}: {problem}" for problem in error.problems]
            continue
        name = profile["name"]
        if name in found:
            wrong.append(f"{key}: '{name}' is there already")
        found[name] = profile
    if wrong:
        raise ConfigError(*bounded(wrong))
    return list(found.values())
