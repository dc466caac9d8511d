"""A fitted model as a profile file, in the schema of the core."""

import json
import math
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from weighbridge._core import Core, CoreError
from weighbridge.calibrate.fit.steps import Costs, StepModel
from weighbridge.config.profiles import load_profile
from weighbridge.errors import ConfigError

DIGITS = 5


@dataclass(frozen=True, slots=True)
class Engine:
    """What a profile says of the engine beside the fit."""

    kv_tokens: int
    block_tokens: int
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int | None = None
    """Tokens of a prompt and one answer together; None: as many as the cache holds."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the figures come from."""

    tables: str
    day: date
    note: str


def build(
    *,
    name: str,
    models: list[str],
    step: StepModel,
    prefill_base: float,
    costs: Costs,
    capacity_mu_per_min: float,
    reference_batch: float,
    is_reference: bool,
    engine: Engine,
    origin: Origin,
    hardware: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The profile as its file gives it."""
    profile: dict[str, Any] = {"name": name, "models": models}
    if is_reference:
        profile["reference"] = True
    if hardware:
        profile["hardware"] = hardware
    if settings:
        profile["engine"] = settings
    profile["source"] = {
        "tables": origin.tables,
        "date": origin.day.isoformat(),
        "note": origin.note,
    }
    profile |= {
        "capacity_mu_per_min": round(capacity_mu_per_min),
        "kv_tokens": engine.kv_tokens,
        "block_tokens": engine.block_tokens,
        "max_batch_size": engine.max_batch_size,
        "max_num_tokens": engine.max_num_tokens,
    }
    if engine.max_seq_len is not None:
        profile["max_seq_len"] = engine.max_seq_len
    return profile | {
        "reference_batch": reference_batch,
        "cost": cost_section(costs),
        "latency": latency_section(step, prefill_base),
    }


def cost_section(costs: Costs) -> dict[str, float]:
    """`cost` of a profile."""
    section = {
        "prefill_per_tok": costs.prefill_per_tok,
        "prefill_per_tok2_e6": costs.prefill_per_tok2_e6,
        "decode_per_tok": costs.decode_per_tok,
        "decode_per_ktok_ctx": costs.decode_per_ktok_ctx,
    }
    optional = {
        "image_per_tile": costs.image_per_tile,
        "audio_per_second": costs.audio_per_second,
        "overhead": costs.overhead,
    }
    section |= {key: value for key, value in optional.items() if value}
    return {key: rounded(value) for key, value in section.items()}


def latency_section(step: StepModel, prefill_base: float) -> dict[str, float]:
    """`latency` of a profile: this hardware's own ms."""
    section = {
        "prefill_base_ms": prefill_base,
        "prefill_per_tok_ms": step.prefill_per_tok,
        "prefill_per_tok2_e6_ms": step.prefill_per_tok2_e6,
        "decode_base_ms": step.decode_base,
        "decode_per_seq_ms": step.decode_per_seq,
        "decode_per_ktok_ctx_ms": step.decode_per_ktok,
    }
    if step.moe:
        section |= {
            "decode_experts_ms": step.moe,
            "decode_experts_per_seq": -math.expm1(-1.0 / step.moe_batch),
        }
    return {key: rounded(value) for key, value in section.items()}


def costs_of(profile: dict[str, Any]) -> Costs:
    """The costs that a profile holds."""
    return Costs(**profile["cost"])


def step_of(profile: dict[str, Any]) -> StepModel | None:
    """The hardware's own times that a profile holds, if it does."""
    latency = profile.get("latency")
    if not latency:
        return None
    share = latency.get("decode_experts_per_seq", 0.0)
    base = latency.get("decode_base_ms", 0.0)
    return StepModel(
        prefill_per_tok=latency.get("prefill_per_tok_ms", 0.0),
        prefill_per_tok2_e6=latency.get("prefill_per_tok2_e6_ms", 0.0),
        request=max(0.0, latency.get("prefill_base_ms", 0.0) - base),
        decode_base=base,
        decode_per_seq=latency.get("decode_per_seq_ms", 0.0),
        decode_per_ktok=latency.get("decode_per_ktok_ctx_ms", 0.0),
        moe=latency.get("decode_experts_ms", 0.0),
        moe_batch=-1.0 / math.log1p(-share) if 0 < share < 1 else 1.0,
    )


def rounded(value: float) -> float:
    """To five significant digits."""
    return float(f"{value:.{DIGITS}g}")


def text(profile: dict[str, Any], heading: str) -> str:
    """The file: a heading, then the profile with its keys in order."""
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    return comment + yaml.safe_dump(profile, sort_keys=False, allow_unicode=True, width=100)


def write(path: Path, profile: dict[str, Any], heading: str) -> None:
    """Writes a profile and lets the core read it; nothing is left that it refuses."""
    check(profile, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_text(text(profile, heading), encoding="utf-8")
    load_profile(partial)
    partial.replace(path)


def check(profile: dict[str, Any], path: Path) -> None:
    """Builds a core with this profile alone. ConfigError when it refuses it."""
    try:
        Core(json.dumps({"profiles": [profile]}))
    except CoreError as error:
        raise ConfigError(f"{path}: {error}") from None
