"""Builds the core from a configuration, and hands it the replicas."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from weighbridge._core import Core, CoreError
from weighbridge.config.admission import Admission
from weighbridge.config.claims import TenantClaim
from weighbridge.config.file import Config
from weighbridge.config.fleet import Replica, ReplicaState
from weighbridge.config.health import Health, Telemetry
from weighbridge.config.placing import Placing
from weighbridge.config.problems import bounded, did_you_mean
from weighbridge.config.profiles import load_profiles
from weighbridge.errors import ConfigError


def settings(config: Config, source: Path) -> dict[str, Any]:
    """The core's settings; profiles are found relative to the configuration file `source`."""
    return {
        "profiles": load_profiles(config.profiles, source.parent, source),
        "placing": placing(config.placing),
        "session_headers": config.session_headers,
        "tenant_header": config.tenant_header,
        "tenant_claim": claim(config.tenant_claim),
        "counted_tenants": config.counted_tenants,
        "default_output_tokens": config.default_output_tokens,
        "decision_log": config.decision_log,
        "held_body_bytes": config.listen.held_body_bytes,
        "admission": admission(config.admission),
        "priority_header": config.priority_header,
        "unweighed": config.unweighed,
        "tokenizers": {
            model: str(source.parent / file) for model, file in config.tokenizers.items()
        },
        "tokenizer_max_bytes": config.tokenizer_max_bytes,
        "health": health(config.health, config.telemetry),
        "spans": config.tracing.max_pending if config.tracing.collector else 0,
        "usage_records": config.usage_log.max_pending if config.usage_log.path else 0,
    }


def claim(config: TenantClaim | None) -> dict[str, Any] | None:
    """Where the tenant's claim is, for the core; who writes it there is Envoy's matter."""
    return None if config is None else config.model_dump(include={"namespace", "path"})


def admission(config: Admission) -> dict[str, Any]:
    """Tenants and what may wait, for the core."""
    return config.model_dump()


def placing(config: Placing) -> dict[str, Any]:
    """How replicas are chosen, for the core; how often rounds are is ours."""
    return config.model_dump(exclude={"round_seconds"})


def health(config: Health, telemetry: Telemetry) -> dict[str, Any]:
    """How health is judged, for the core; how it is watched is ours."""
    return {
        "enabled": config.enabled,
        "first_byte_ms": round(config.first_byte_seconds * 1000),
        "most_foreign_ms": telemetry.most_foreign_seconds * 1000,
        "judgement": {
            "failures_well": config.failures_well,
            "failures_worst": config.failures_worst,
            "least_requests": config.least_requests,
            "speed_well": config.speed_well,
            "speed_worst": config.speed_worst,
            "probe_failures": config.failures,
            "most_ejected": config.most_ejected,
            "ejection_ms": round(config.ejection_seconds * 1000),
            "longest_ejection_ms": round(config.longest_ejection_seconds * 1000),
            "probe_successes": config.successes,
            "probing_share": config.probing_share,
        },
    }


def replica_settings(
    replicas: tuple[Replica, ...], states: Mapping[str, ReplicaState] | None = None
) -> list[dict[str, Any]]:
    """The replicas, with what was said of their state; else the core judges their health."""
    said = states or {}
    return [
        {
            "endpoint": replica.endpoint,
            "profile": replica.profile,
            "model": replica.model,
            "adapters": replica.adapters,
            "domain": replica.domain,
            "share": replica.share,
            "state": said.get(replica.endpoint, "healthy"),
        }
        for replica in replicas
    ]


def replica_problems(
    replicas: Sequence[Replica], profiles: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """What is wrong with the profiles and models that replicas name, each with its key's path."""
    names = {profile["name"] for profile in profiles}
    models = {
        name
        for profile in profiles
        for key in ("models", "adapters")
        for name in listed(profile.get(key))
    }
    wrong = []
    for index, replica in enumerate(replicas):
        if replica.profile not in names:
            wrong.append(f"replicas[{index}].profile: {no_profile(replica.profile, names)}")
        if replica.model is not None and replica.model not in models:
            hint = did_you_mean(replica.model, models)
            wrong.append(
                f"replicas[{index}].model: no profile names the model '{replica.model}'{hint}"
            )
    return bounded(wrong)


def no_profile(name: str, known: Collection[str]) -> str:
    """What to say of a profile's name that no profile has."""
    return f"no profile is called '{name}'{did_you_mean(name, known)}"


def listed(names: object) -> list[str]:
    """A profile's list of names as its file gives it; the core says what is wrong with it."""
    return [one for one in names if isinstance(one, str)] if isinstance(names, list) else []


def build(config: Config, source: Path) -> Core:
    """A core with the configuration's replicas. ConfigError tells what is wrong with these."""
    made = settings(config, source)
    wrong = replica_problems(config.replicas, made["profiles"])
    if wrong:
        raise ConfigError(*(f"{source}: {problem}" for problem in wrong))
    try:
        core = Core(json.dumps(made))
        core.set_replicas(json.dumps(replica_settings(config.replicas)))
        core.set_observe_only(config.observe_only)
    except CoreError as error:
        raise ConfigError(f"{source}: {error}") from None
    return core
