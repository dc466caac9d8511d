"""What all contestants share: the trace, the replicas, the objective."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from weighbridge.errors import RefusedError
from weighbridge.lab.traces import TraceRequest, generate, generator, load, requests_of

# The longest sequence that the emulated engines take; longer requests of the trace are left out.
MOST_TOKENS = 131_072


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request must meet to count as goodput, in the replicas' own time."""

    ttft_ms: float
    # So much more for every 1,000 prompt tokens.
    ttft_ms_per_ktok: float
    tpot_ms: float

    def first_token_ms(self, prompt_tokens: int) -> float:
        """Within what time the first token of such a prompt must come."""
        return self.ttft_ms + self.ttft_ms_per_ktok * prompt_tokens / 1000.0


@dataclass(frozen=True, slots=True)
class Kill:
    """So many replicas crash and come back cold. Times are the replicas'."""

    at_seconds: float
    count: int
    for_seconds: float


def kill_of(text: str) -> Kill:
    """Reads it as the simulator's events are written: `at=60 kill=2 for=30`."""
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"at={number} kill=([1-9]\d*) for={number}", text.strip())
    if found is None:
        raise RefusedError(f"'{text}' is no kill: write it as 'at=60 kill=2 for=30'")
    return Kill(float(found[1]), int(found[2]), float(found[3]))


@dataclass(frozen=True, slots=True)
class Setting:
    """One arena. `agree` gives the simulator the same."""

    trace: str
    # Of the trace: from its beginning on, at its own times ÷ time_scale.
    seconds: float
    time_scale: float
    # A profile's name, or several with the number of replicas of each: `a:6,b:2`.
    profile: str
    replicas: int
    # How many times faster than real the replicas run, and the trace with them.
    speed: float
    rounds: int
    seed: int
    objective: Objective
    # Requests that come earlier are sent but not measured; 0: caches and routers are cold.
    warm_seconds: float = 0.0
    # Clients in a closed loop: each sends its next session when the one before it has ended. 0:
    # requests come at the trace's times.
    clients: int = 0
    # As `kill_of` reads them.
    kills: tuple[str, ...] = ()

    @property
    def fleets(self) -> list[tuple[str, int]]:
        """Each profile with the number of its replicas; RefusedError where they do not add up."""
        parts = [part.rpartition(":") for part in self.profile.split(",")]
        if len(parts) == 1 and not parts[0][1]:
            return [(self.profile, self.replicas)]
        if not all(name and count.isdigit() and int(count) > 0 for name, _, count in parts):
            raise RefusedError(f"--profile: '{self.profile}': write several as a:6,b:2")
        found = [(name, int(count)) for name, _, count in parts]
        if sum(count for _, count in found) != self.replicas:
            raise RefusedError(f"--profile: '{self.profile}' is not of {self.replicas} replicas")
        return found

    def json(self) -> dict[str, Any]:
        """As the results have it."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        del plain["objective"]
        return plain | {
            "trace": Path(self.trace).name,
            "kills": list(self.kills),
            "slo": {
                "ttft_ms": self.objective.ttft_ms,
                "ttft_ms_per_ktok": self.objective.ttft_ms_per_ktok,
                "tpot_ms": self.objective.tpot_ms,
            },
        }


def setting_of(content: Mapping[str, Any], trace: Path) -> Setting:
    """The setting that results were measured in, before the trace that they name."""
    slo = content["slo"]
    known = {field.name for field in fields(Setting)} & set(content)
    plain = {name: content[name] for name in known}
    return Setting(
        **plain
        | {
            "trace": str(trace),
            "kills": tuple(content.get("kills", ())),
            "objective": Objective(slo["ttft_ms"], slo["ttft_ms_per_ktok"], slo["tpot_ms"]),
        }
    )


def write_workload(name: str, seconds: float, seed: int, file: Path) -> None:
    """Writes a workload as a trace."""
    trace = generate(**(generator(name, {"seed": seed, "duration_s": seconds}) or {}))
    file.parent.mkdir(parents=True, exist_ok=True)
    trace.save(file)


@dataclass(frozen=True, slots=True)
class Asking(TraceRequest):
    """A request whose text tells an emulated replica how long the trace's answer is.

    Some routers pass on no header that could, and a limit in the body would tell ours what it has
    to guess.
    """

    def body(self, model: str) -> bytes:
        """The body, with those words at the end of the last message's text."""
        return asking(TraceRequest.body(self, model), self.output_tokens)


def asking(body: bytes, tokens: int) -> bytes:
    """A chat whose last message ends by asking for an answer of so many tokens.

    The next turn quotes the message without that; what comes before it is found in the cache.
    """
    words = f" x-emulate-output-tokens: {tokens}".encode()
    content, picture = b'"content":"', b'"}}]}'
    text, pictured = body.rfind(content), body.rfind(picture)
    if pictured > text:
        end = pictured + len(picture) - 2
        return body[:end] + b',{"type":"text","text":"' + words + b'"}' + body[end:]
    end = body.index(b'"', text + len(content))
    return body[:end] + words + body[end:]


def requests_in(setting: Setting) -> Sequence[TraceRequest]:
    """The requests in order of time; all that have an answer are streamed: its beginning shows."""
    chosen = requests_of(
        load(Path(setting.trace)),
        time_scale=setting.time_scale,
        duration_s=setting.seconds,
        most_tokens=MOST_TOKENS,
    )
    return [_asking(request) for request in chosen]


def _asking(request: TraceRequest) -> TraceRequest:
    if request.kind == "embeddings":
        return request
    plain = {field.name: getattr(request, field.name) for field in fields(request)}
    return Asking(**plain | {"stream": True})
