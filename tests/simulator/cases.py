"""What the simulator's benchmark runs under one load for all policies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weighbridge.lab.simulate import DEFAULT_ENGINE, Fleet, Options


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


CASES = (
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
    Case(
        "failures-64",
        "Conversation trace, 64 replicas, of which 6 are lost for two minutes",
        64,
        {
            "duration_s": 900.0,
            "warmup_s": 300.0,
            "load": 0.45,
            "events": ("at=500 kill=6 for=120",),
        },
    ),
)
