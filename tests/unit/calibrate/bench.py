"""Whole calibrations against the virtual replica."""

import random
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from tests.unit.calibrate.virtual import Hidden, VirtualReplica, run
from weighbridge.calibrate.design import Domain
from weighbridge.calibrate.engine.words import Words
from weighbridge.calibrate.experiment import Budget, Experiment
from weighbridge.calibrate.measure import Bench
from weighbridge.calibrate.outcome import About, Outcome, conclude
from weighbridge.calibrate.profile import Engine
from weighbridge.calibrate.state import Header, State

HEADER = Header(url="virtual", model="m", time_scale=1, max_prompt=8192, max_batch=64)
BLOCK = 32


@dataclass
class Trial:
    """One calibration and what was said in it."""

    hidden: Hidden
    seed: int = 1
    tells: bool = True
    foreign: int = 0
    images: bool = False
    seconds: float = 3600.0
    tokens: int = 50_000_000
    max_prompt: int = 8192
    state_path: Path | None = None
    reference: dict[str, Any] | None = None
    said: list[str] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    stop_after: int | None = None
    virtual_seconds: float = 0.0

    def experiment(self) -> Experiment:
        """Carries the experiment out."""
        return run(self._run())

    def outcome(self) -> Outcome:
        """Carries it out and concludes."""
        done = self.experiment()
        return conclude(done.state.measured, self.about(), done.notes)

    def about(self) -> About:
        """What is known beside the measurements."""
        hidden = self.hidden
        return About(
            name="hidden",
            models=("m",),
            engine=Engine(hidden.kv_tokens, BLOCK, hidden.max_batch, hidden.max_num_tokens),
            max_batch=min(64, hidden.max_batch),
            day=date(2026, 1, 1),
            hardware={},
            settings={},
            reference=self.reference,
        )

    async def _run(self) -> Experiment:
        replica = VirtualReplica(self.hidden, self.seed, tells=self.tells, foreign=self.foreign)
        experiment = Experiment(
            target=replica,
            bench=Bench(replica, Words(self.seed)),
            state=State.open(HEADER, self.state_path),
            domain=Domain(
                max_prompt=self.max_prompt,
                max_batch=min(64, self.hidden.max_batch),
                max_num_tokens=self.hidden.max_num_tokens,
                kv_tokens=self.hidden.kv_tokens,
                images=self.images,
            ),
            budget=Budget(self.seconds, self.tokens),
            chance=random.Random(self.seed),
            say=self.said.append,
            progress=self._progress,
        )
        await experiment.run()
        self.virtual_seconds = replica.now() / 1000
        return experiment

    def _progress(self, _label: str, left: float) -> None:
        self.left.append(left)
        if self.stop_after is not None and len(self.left) > self.stop_after:
            raise KeyboardInterrupt
