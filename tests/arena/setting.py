"""What all contestants share: the trace, the replicas, the objective."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weighbridge.traces import TraceRequest, generate, generator, load, requests_of

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
class Setting:
    """One arena. `agree` gives the simulator the same."""

    trace: str
    # Of the trace: from its beginning on, at its own times ÷ time_scale.
    seconds: float
    time_scale: float
    profile: str
    replicas: int
    # How many times faster than real the replicas run, and the trace with them.
    speed: float
    rounds: int
    seed: int
    objective: Objective
    # The answers' lengths: the conversation trace has a median of 350, a p95 of 698.
    output_median: float = 350.0
    output_sigma: float = 0.42

    def json(self) -> dict[str, Any]:
        """As the results have it."""
        return {
            "trace": Path(self.trace).name,
            "seconds": self.seconds,
            "time_scale": self.time_scale,
            "profile": self.profile,
            "replicas": self.replicas,
            "speed": self.speed,
            "rounds": self.rounds,
            "seed": self.seed,
            "slo": {
                "ttft_ms": self.objective.ttft_ms,
                "ttft_ms_per_ktok": self.objective.ttft_ms_per_ktok,
                "tpot_ms": self.objective.tpot_ms,
            },
            "output_median": self.output_median,
            "output_sigma": self.output_sigma,
        }


def setting_of(content: Mapping[str, Any], trace: Path) -> Setting:
    """The setting that results were measured in, before the trace that they name."""
    slo = content["slo"]
    return Setting(
        trace=str(trace),
        seconds=content["seconds"],
        time_scale=content["time_scale"],
        profile=content["profile"],
        replicas=content["replicas"],
        speed=content["speed"],
        rounds=content["rounds"],
        seed=content["seed"],
        objective=Objective(slo["ttft_ms"], slo["ttft_ms_per_ktok"], slo["tpot_ms"]),
        output_median=content["output_median"],
        output_sigma=content["output_sigma"],
    )


def write_workload(name: str, seconds: float, seed: int, file: Path) -> tuple[float, float]:
    """Writes a workload as a trace.

    Answers the median of its answers' lengths and the deviation of their logarithm: the replicas
    draw lengths from these, since not every router passes on a header that asks for one.
    """
    trace = generate(**(generator(name, {"seed": seed, "duration_s": seconds}) or {}))
    file.parent.mkdir(parents=True, exist_ok=True)
    trace.save(file)
    logs = [math.log(request.output_tokens) for request in requests_of(trace)]
    return round(math.exp(statistics.median(logs)), 1), round(statistics.pstdev(logs), 3)


def requests_in(setting: Setting) -> Sequence[TraceRequest]:
    """The requests in order of time, all of them streamed, so that each shows its first token."""
    chosen = requests_of(
        load(Path(setting.trace)),
        time_scale=setting.time_scale,
        duration_s=setting.seconds,
        most_tokens=MOST_TOKENS,
    )
    return [replace(request, stream=True) for request in chosen]
