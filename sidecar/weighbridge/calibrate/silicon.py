"""Profiles from NVIDIA's measured tables of TensorRT-LLM (the package aiconfigurator-core).

They tell what a prompt takes alone and what a step takes; the regression is that of measured
replicas. A step reads the weights once, whatever it computes: of a prompt's base only what exceeds
the step's own base is held against it. What was asked and answered is kept in a CSV beside the
profiles, so that they can be made again, and checked, without the package.
"""

import csv
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from weighbridge.calibrate import profile as profiles
from weighbridge.calibrate.fit.model import CONTEXT_TERMS, MOE_TERM, Part, fit_decode
from weighbridge.calibrate.fit.points import Measurement, Point, Served
from weighbridge.calibrate.fit.regress import Fit, Sample, fit
from weighbridge.calibrate.fit.replay import Limits, closed_loop
from weighbridge.calibrate.fit.saturate import capacity_mu_per_min
from weighbridge.calibrate.fit.steps import REFERENCE_MIX, Costs, StepModel, reference_batch
from weighbridge.calibrate.silicon_models import SERVED
from weighbridge.calibrate.silicon_models import Served as Combination
from weighbridge.errors import RefusedError

PACKAGE = "aiconfigurator-core"
TABLES = "tables.csv"
COLUMNS = ("name", "phase", "prompt", "cached", "batch", "value")
BLOCK_TOKENS = 32
MAX_BATCH_SIZE = 256
MAX_NUM_TOKENS = 8192
FREE_MEMORY = 0.9
PROMPTS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8000)
CACHED_SHARES = (0.0, 0.5, 0.9)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 512, 1024, 2048, 4096, 8192)
SATURATION_ROUNDS = 3
OVERFULL = 1.15


@dataclass(frozen=True, slots=True)
class Figure:
    """One answer of the tables: ms, or of the phase `kv` the tokens that the cache holds."""

    name: str
    phase: str
    prompt: int
    cached: int
    batch: int
    value: float


@dataclass(frozen=True, slots=True)
class Tables:
    """All answers, with the package they come from and the day they were asked."""

    source: str
    day: date
    figures: tuple[Figure, ...]

    def of(self, name: str, phase: str) -> list[Figure]:
        """Of one combination and phase."""
        return [one for one in self.figures if one.name == name and one.phase == phase]


def query(day: date, served: Sequence[Combination] = SERVED) -> Tables:
    """Asks the package. RefusedError when it is not installed."""
    try:
        sdk = importlib.import_module("aiconfigurator_core.sdk")
    except ImportError as error:
        raise RefusedError(
            f"--from-aiconfigurator needs pip install 'weighbridge[aiconfigurator]' ({error})"
        ) from None
    figures: list[Figure] = []
    for one in served:
        figures += ask(sdk, one)
    return Tables(f"{PACKAGE} {metadata.version(PACKAGE)}", day, tuple(figures))


def ask(sdk: Any, one: Combination) -> Iterable[Figure]:
    """All figures of one combination."""
    quantized = {
        key: value
        for key, value in (
            ("gemm_quant_mode", one.quantization),
            ("kvcache_quant_mode", one.kv_cache),
            ("fmha_quant_mode", one.kv_cache),
        )
        if value is not None
    }
    if one.mixture:
        quantized |= {"moe_tp_size": str(one.tensor_parallel), "moe_ep_size": "1"}
    settings: dict[str, Any] = {
        key: int(value) if value.isdigit() else value for key, value in quantized.items()
    }
    settings |= {"backend_version": one.version, "tp_size": one.tensor_parallel}
    engine = sdk.EngineHandle.compile(one.tables_model, one.system, "trtllm", **settings)
    kv = sdk.estimate_kv_cache(
        one.tables_model,
        one.system,
        "trtllm",
        max_num_tokens=MAX_NUM_TOKENS,
        max_batch_size=MAX_BATCH_SIZE,
        memory_fraction_kind="of_free",
        memory_fraction_value=FREE_MEMORY,
        **settings,
    )
    tokens = int(kv["total_kv_size_tokens"])
    yield Figure(one.name, "kv", 0, 0, 0, tokens)
    for prompt in PROMPTS:
        for share in CACHED_SHARES:
            cached = int(prompt * share) // BLOCK_TOKENS * BLOCK_TOKENS
            if share and not cached:
                continue
            took = engine.predict_prefill_latency(1, prompt, cached)
            yield Figure(one.name, "context", prompt, cached, 1, took)
    for batch in BATCHES:
        for context in CONTEXTS:
            if batch * context <= tokens:
                took = engine.predict_decode_latency(batch, context, 2)
                yield Figure(one.name, "decode", context, 0, batch, took)


def write(path: Path, tables: Tables) -> None:
    """Keeps the answers."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {tables.source}, {tables.day.isoformat()}; ms, of phase kv: tokens\n")
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for one in tables.figures:
            value = f"{one.value:.0f}" if one.phase == "kv" else f"{one.value:.5g}"
            rows.writerow((one.name, one.phase, one.prompt, one.cached, one.batch, value))


def read(path: Path) -> Tables:
    """Answers that were kept. RefusedError when the file is none of ours."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        heading = lines[0].removeprefix("# ").split(";")[0]
        source, day = heading.rsplit(", ", 1)
        figures = tuple(
            Figure(
                row["name"],
                row["phase"],
                int(row["prompt"]),
                int(row["cached"]),
                int(row["batch"]),
                float(row["value"]),
            )
            for row in csv.DictReader(lines[1:])
        )
        return Tables(source, date.fromisoformat(day), figures)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise RefusedError(f"{path}: holds no figures of {PACKAGE}: {error}") from None


def build_all(tables: Tables, served: Sequence[Combination] = SERVED) -> list[dict[str, Any]]:
    """Every profile; those on other hardware in the MU of their model's reference."""
    references: dict[str, dict[str, Any]] = {}
    found = []
    for one in served:
        profile = build(tables, one, references.get(one.models[0]))
        if one.reference:
            references[one.models[0]] = profile
        found.append(profile)
    return found


def build(tables: Tables, one: Combination, reference: dict[str, Any] | None) -> dict[str, Any]:
    """One profile from the tables' answers."""
    kv_tokens = int(tables.of(one.name, "kv")[0].value)
    batch = (
        float(reference["reference_batch"])
        if reference
        else reference_batch(kv_tokens, MAX_BATCH_SIZE)
    )
    context, decode = regressions(tables, one.name)
    base, step = step_model(context, decode)
    costs = profiles.costs_of(reference) if reference else Costs.of(step, batch)
    return profiles.build(
        name=one.name,
        models=list(one.models),
        step=step,
        prefill_base=base,
        costs=costs,
        capacity_mu_per_min=saturated(step, kv_tokens, costs),
        reference_batch=batch,
        is_reference=one.reference,
        engine=profiles.Engine(
            kv_tokens, BLOCK_TOKENS, MAX_BATCH_SIZE, MAX_NUM_TOKENS, one.max_seq_len
        ),
        origin=profiles.Origin(tables.source, tables.day, note(one, context, decode)),
        hardware=hardware(one),
        settings=settings_of(one),
    ) | {"tokens": {"family": one.family}}


def regressions(tables: Tables, name: str) -> tuple[Fit, Part]:
    """What a prompt takes alone, and what a step takes."""
    prompts = [
        Sample(
            (1.0, float(one.prompt - one.cached), (one.prompt**2 - one.cached**2) / 1e6),
            one.value,
            0.0,
        )
        for one in tables.of(name, "context")
    ]
    steps = [
        Measurement(
            point=Point(kind="decode", prompt=one.prompt, batch=one.batch),
            values=(one.value,),
            batch=one.batch,
            context_tokens=one.batch * one.prompt,
        )
        for one in tables.of(name, "decode")
    ]
    return fit(prompts, CONTEXT_TERMS, exact=True), fit_decode(steps, exact=True)


def step_model(context: Fit, decode: Part) -> tuple[float, StepModel]:
    """The base of a step that computes a prompt alone, and the step model."""
    alone, steps = context.values, decode.fit.values
    step = StepModel(
        prefill_per_tok=alone["prefill_per_tok"],
        prefill_per_tok2_e6=alone["prefill_per_tok2_e6"],
        request=0.0,
        decode_base=steps["decode_base"],
        decode_per_seq=steps["decode_per_seq"],
        decode_per_ktok=steps["decode_per_ktok"],
        moe=steps.get(MOE_TERM, 0.0),
        moe_batch=decode.moe_batch or 1.0,
    )
    return alone["request"], replace(step, request=max(0.0, alone["request"] - step.decode_base))


def saturated(step: StepModel, kv_tokens: int, costs: Costs) -> float:
    """MU per minute of a replica full of the reference mix, by the step model."""
    limits = Limits(MAX_BATCH_SIZE, MAX_NUM_TOKENS, kv_tokens)
    full = int(reference_batch(kv_tokens, MAX_BATCH_SIZE) * OVERFULL) + 1
    mix = [(shape.prompt, 0, shape.output) for shape in REFERENCE_MIX]
    clients = [
        [mix[(client + turn) % len(mix)] for turn in range(SATURATION_ROUNDS)]
        for client in range(full)
    ]
    served = []
    for number, latencies in enumerate(closed_loop(step, limits, clients, 0.0)):
        at = 0.0
        for (prompt, cached, output), latency in zip(clients[number], latencies, strict=True):
            served.append(
                Served(
                    client=number,
                    prompt=prompt,
                    cached=cached,
                    output=output,
                    start_ms=at,
                    end_ms=at + latency,
                )
            )
            at += latency
    point = Point(kind="saturation", batch=full, output=SATURATION_ROUNDS)
    return capacity_mu_per_min(Measurement(point=point, served=tuple(served)), costs)


def note(one: Combination, context: Fit, decode: Part) -> str:
    """How well the cost form describes the tables."""
    prompts = np.abs(context.relative)
    steps = np.abs(decode.fit.relative)
    return (
        f"trtllm {one.version}; the form is off by {np.median(prompts):.1%} (worst"
        f" {prompts.max():.0%}) for prompts, {np.median(steps):.1%} (worst {steps.max():.0%})"
        " for steps"
    )


def hardware(one: Combination) -> dict[str, Any]:
    """`hardware` of the profile."""
    return {
        "gpu": one.system,
        "gpus": one.tensor_parallel,
        "tensor_parallel": one.tensor_parallel,
        "expert_parallel": 1,
    }


def settings_of(one: Combination) -> dict[str, Any]:
    """`engine` of the profile."""
    return {
        "name": "tensorrt-llm",
        "version": one.version,
        "quantization": one.quantization or "as the checkpoint has it",
        "kv_cache": one.kv_cache or "auto",
        "chunked_prefill": True,
        "block_reuse": True,
    }


HEADING = """{name}, from {source} (NVIDIA's measured TensorRT-LLM tables), {day}.
Made by: weighbridge calibrate --from-aiconfigurator --out tensorrt_backends/profiles"""


def write_all(directory: Path, tables: Tables) -> list[Path]:
    """Writes every profile, and the answers that they are made of."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for profile in build_all(tables):
        path = directory / f"{profile['name']}.yaml"
        heading = HEADING.format(
            name=profile["name"], source=tables.source, day=tables.day.isoformat()
        )
        profiles.write(path, profile, heading)
        written.append(path)
    write(directory / TABLES, tables)
    return written
