"""The runtime keys: what may be changed through Envoy's admin port, with effect and range.

Each key stands for one key of the configuration, whose type and range it has.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from weighbridge.config.file import Config

PREFIX = "weighbridge."
S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class RuntimeKey:
    """One key, without the prefix, and where its configured value is."""

    name: str
    path: tuple[str, ...]
    effect: str

    @property
    def full_name(self) -> str:
        """As `/runtime_modify` takes it."""
        return PREFIX + self.name


def _placing(name: str, effect: str) -> RuntimeKey:
    return RuntimeKey(name, ("placing", name), effect)


def _queue(name: str, effect: str) -> RuntimeKey:
    return RuntimeKey(f"admission_{name}", ("admission", "queue", name), effect)


RUNTIME_KEYS: tuple[RuntimeKey, ...] = (
    RuntimeKey(
        "observe_only",
        ("observe_only",),
        "decide and record, but tell Envoy nothing, let nobody wait and refuse nothing",
    ),
    RuntimeKey(
        "weighed_percent",
        ("envoy", "weighed_percent"),
        "share of requests that the sidecar is asked about; the rest goes by Envoy's own policy. "
        "Envoy itself reads this key (the route's `runtime_fraction`)",
    ),
    RuntimeKey(
        "admission_enabled",
        ("admission", "enabled"),
        "off: everything runs at once, nothing waits or is refused for load",
    ),
    _placing("spill_margin_ms", "lower: sessions leave a busy home sooner; higher: they stay"),
    _placing("spill_margin_share", "the same, as a share of the home's predicted time"),
    _placing("samples", "more: spills find less loaded replicas, each decision costs more"),
    _placing("cached_candidates", "more: replicas that hold the prompt are found more often"),
    _placing("stall_weight", "higher: prompts go where fewer sequences decode; caches weigh more"),
    _placing("promise_weight", "higher: others leave replicas that promises use sooner"),
    _placing("objective_ttft_ms", "longer: a first token may wait for others' tokens"),
    _placing("objective_ttft_ms_per_ktok", "longer: long prompts may wait longer"),
    _placing("objective_tpot_ms", "shorter: fewer sequences and less prefill on a replica"),
    _placing("room_weight", "higher: sessions leave a full replica's cache less often"),
    _placing("degraded_factor", "higher: degraded replicas get less"),
    _placing("fallbacks", "replicas named after the chosen one, for Envoy's retries"),
    _placing("load_tolerance", "lower: slices move sooner, caches are lost more often"),
    _placing("churn_share", "lower: fewer moves a round"),
    _placing("turn_gap_s", "lower: a session that pauses is worth less to a move's price"),
    _placing("horizon_s", "longer: moves pay off more easily"),
    _placing("heat_memory_s", "shorter: the assigner and autoscaling follow demand sooner"),
    _placing("round_seconds", "how often the assigner looks"),
    _queue("window_ms", "lower: fewer answers decode at once, more wait"),
    _queue("first_token_share", "lower: requests wait here rather than at replicas"),
    _queue("kv_share", "the same for KV tokens"),
    _queue("queue_requests", "how many may wait"),
    _queue("max_wait_ms", "how long they may wait"),
)
BY_NAME: Mapping[str, RuntimeKey] = {key.name: key for key in RUNTIME_KEYS}


def parse(key: RuntimeKey, text: str) -> Any:
    """A value as the configuration would take it. ValueError says what is wrong."""
    info = _field(key)
    shape: Any = Annotated[info.annotation, info]
    try:
        value: Any = TypeAdapter(shape).validate_python(text)
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False)[0]["msg"]) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("Input should be a finite number")
    return value


def tuned(config: Config, values: Mapping[RuntimeKey, Any]) -> Config:
    """The configuration with some keys' values replaced."""
    for key, value in values.items():
        config = _replaced(config, key.path, value)
    return config


def configured(config: Config, key: RuntimeKey) -> Any:
    """A key's value in a configuration."""
    value: Any = config
    for part in key.path:
        value = getattr(value, part)
    return value


def _replaced(section: S, path: tuple[str, ...], value: Any) -> S:
    head, *rest = path
    if rest:
        value = _replaced(getattr(section, head), tuple(rest), value)
    return section.model_copy(update={head: value})


def _field(key: RuntimeKey) -> FieldInfo:
    model: type[BaseModel] = Config
    *sections, name = key.path
    for section in sections:
        annotation = model.model_fields[section].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            raise TypeError(f"{key.path}: {section} is no section")
        model = annotation
    return model.model_fields[name]


def limits(info: FieldInfo) -> str:
    """A field's range, for people."""
    if info.annotation is bool:
        return "true, false"
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    parts = []
    for name, word in words.items():
        bounds = [getattr(bound, name, None) for bound in info.metadata]
        parts += [f"{word} {bound:,}" for bound in bounds if bound is not None]
    return " ".join(parts)


def table() -> str:
    """The keys as docs/tuning.md shows them."""
    rows = [
        "| runtime key | configuration key | default | range | effect |",
        "|---|---|---|---|---|",
    ]
    for key in RUNTIME_KEYS:
        default = configured(Config(), key)
        shown = str(default).lower() if isinstance(default, bool) else f"{default:,}"
        rows.append(
            f"| `{key.full_name}` | `{'.'.join(key.path)}` | {shown} | {limits(_field(key))} "
            f"| {key.effect} |"
        )
    return "\n".join(rows) + "\n"
