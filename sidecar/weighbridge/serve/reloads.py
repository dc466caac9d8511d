"""What became of the configuration file: which is in force, since when, and why not the latest."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from weighbridge.config.file import Config


@dataclass(slots=True)
class Reloads:
    """How reloads have gone. Times are in s since 1970."""

    hash: str
    loaded_at: float
    # Why the file as it is now is not in force; None while it is.
    refused: str | None = None
    refused_at: float | None = None
    refusals: int = 0

    @classmethod
    def of(cls, config: Config, clock: Callable[[], float] = time.time) -> "Reloads":
        """At the start."""
        return cls(hash_of(config), clock())

    def taken(self, config: Config) -> None:
        """The file is in force."""
        self.hash, self.loaded_at = hash_of(config), time.time()
        self.cleared()

    def cleared(self) -> None:
        """The file is again as it is in force."""
        self.refused = self.refused_at = None

    def refuse(self, why: str) -> None:
        """The file is not taken; what was in force before stays."""
        self.refused, self.refused_at = why, time.time()
        self.refusals += 1

    def report(self) -> dict[str, Any]:
        """For status and metrics."""
        return {
            "hash": self.hash,
            "loaded_at": self.loaded_at,
            "refused": self.refused,
            "refused_at": self.refused_at,
            "refusals": self.refusals,
        }


def hash_of(config: Config) -> str:
    """Tells two configurations apart: sidecars with the same settings have the same."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
