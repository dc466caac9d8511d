"""Traces for live drivers: when to send what. The Rust core loads them and makes the bytes.

What a trace says is shared is shared in the bytes, a session's next turn begins with all that was
said before, and a run can be repeated byte for byte; the simulator sees the same bytes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from weighbridge._core import CoreError, Replay, Trace, workloads
from weighbridge.errors import RefusedError

# Tokens of a block in Mooncake's traces.
BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace: when, who, what is asked and how long the answer is."""

    number: int
    at_seconds: float
    session: str
    tenant: str
    turn: int
    input_tokens: int
    output_tokens: int
    # What the client allows.
    max_tokens: int
    # chat, batch or embeddings.
    kind: str
    stream: bool
    replay: Replay = field(repr=False, compare=False)

    def body(self, model: str) -> bytes:
        """The body of the chat completion, or of the request for embeddings."""
        return self.replay.body(self.number, model, self.stream)


def load(path: Path, trace_format: str | None = None, **options: Any) -> Trace:
    """A trace from a file; its format is told by its first line. RefusedError names the fault."""
    try:
        return Trace.load(path, json.dumps({"format": trace_format, **options}))
    except CoreError as error:
        raise RefusedError(str(error)) from None


def generate(**settings: Any) -> Trace:
    """A trace as the settings say; what is left out is as the `workload` has it that they name.

    Without one, it is as `_core.generator_defaults()` has it.
    """
    try:
        return Trace.generate(json.dumps(settings))
    except CoreError as error:
        raise RefusedError(str(error)) from None


def generator(workload: str | None, settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Settings for `generate`; None where neither a workload nor a setting is given."""
    if workload is None:
        return None if settings is None else dict(settings)
    if workload not in workloads():
        known = ", ".join(workloads())
        raise RefusedError(f"there is no workload '{workload}' (there are: {known})")
    return {"workload": workload, **(settings or {})}


def requests_of(trace: Trace, **scaling: Any) -> Iterator[TraceRequest]:
    """The requests of a trace in order of time.

    `scaling`: rate (requests a second, by copies of whole sessions), time_scale, start_s,
    duration_s, most_tokens, tenants, tenant_skew, surge, seed.
    """
    try:
        replay = trace.replay(json.dumps(scaling))
    except CoreError as error:
        raise RefusedError(str(error)) from None
    for number in range(len(replay)):
        planned = replay.request(number)
        at, session, tenant, turn, input_tokens, output_tokens, most, kind = planned
        yield TraceRequest(
            number=number,
            at_seconds=at,
            session=session,
            tenant=tenant,
            turn=turn,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            max_tokens=most,
            kind=kind,
            # Three in four are streamed, whatever the session; there is no stream of embeddings.
            stream=number % 4 != 3 and kind != "embeddings",
            replay=replay,
        )


def read_rows(path: Path) -> Trace:
    """The same as `load`, as older callers name it."""
    return load(path)


def shipped_trace() -> Path:
    """The small trace that the package carries."""
    return Path(str(resources.files("weighbridge"))) / "data" / "conversation.jsonl"
