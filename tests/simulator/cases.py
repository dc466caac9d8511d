"""What the simulator's benchmark runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weighbridge.simulate import DEFAULT_ENGINE, Fleet, Options


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison of all policies."""

    name: str
    title: str
    replicas: int
    # What differs from the simulator's defaults.
    more: Mapping[str, Any] = field(default_factory=dict)

    def options(self, trace: Path, policies: Sequence[str]) -> Options:
        """The simulation to run."""
        given: dict[str, Any] = {
            "trace": None if "generator" in self.more else trace,
            "fleets": [Fleet(DEFAULT_ENGINE, self.replicas)],
            "policies": policies,
            **self.more,
        }
        return Options(**given)


# Sessions' turns are two minutes apart: five minutes fill the caches as they will be.
LONG = {"duration_s": 900.0, "warmup_s": 300.0}

CASES = (
    Case(
        "conversation-16",
        "Conversation trace, 16 replicas: goodput",
        16,
        {**LONG, "goodput": True, "seeds": 5, "load": 0.4},
    ),
    Case(
        "conversation-64",
        "Conversation trace, 64 replicas: goodput",
        64,
        {**LONG, "goodput": True, "seeds": 3, "load": 0.4},
    ),
    Case(
        "conversation-64-load",
        "The whole conversation trace, 64 replicas: one load for all",
        64,
        {"duration_s": 3500.0, "warmup_s": 300.0, "load": 0.55},
    ),
    Case(
        "conversation-1000",
        "Conversation trace, 1,000 replicas: one load for all",
        1000,
        {"duration_s": 400.0, "warmup_s": 150.0, "load": 0.55},
    ),
    Case(
        "tenants-64",
        "Generated trace of chats and agents, 200 tenants by Zipf's law, 64 replicas",
        64,
        {
            "duration_s": 600.0,
            "warmup_s": 150.0,
            "generator": {"tenants": 200, "tenant_skew": 1.0, "sessions_per_s": 8.0},
            "load": 0.5,
        },
    ),
    *(
        Case(
            f"{workload}-16",
            f"Workload `{workload}`, 16 replicas: goodput",
            16,
            {
                "duration_s": seconds,
                "warmup_s": seconds / 3,
                "generator": {"workload": workload},
                "goodput": True,
                "seeds": 3,
                "load": 0.7,
            },
        )
        for workload, seconds in (
            ("chat", 240.0),
            ("reasoning", 600.0),
            ("agents", 240.0),
            ("batch", 240.0),
            ("embeddings", 90.0),
            ("images", 240.0),
            ("short", 90.0),
            ("mixed", 240.0),
        )
    ),
    Case(
        "unlike-12",
        "Workload `mixed`, 500 tenants, six fast and six slow replicas: goodput",
        12,
        {
            "duration_s": 240.0,
            "warmup_s": 80.0,
            "generator": {"workload": "mixed"},
            "fleets": [Fleet("llama-3.1-8b-fp8-h100", 6), Fleet("llama-3.1-8b-fp8-l40s", 6)],
            "tenants": 500,
            "goodput": True,
            "seeds": 3,
            "load": 0.7,
        },
    ),
    Case(
        "failures-64",
        "Conversation trace, 64 replicas, of which 6 are lost for two minutes",
        64,
        {**LONG, "load": 0.45, "events": ("at=500 kill=6 for=120",)},
    ),
)
