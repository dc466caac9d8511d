"""The search for goodput: bisection on one ladder of rates, the same for every contestant."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from weighbridge.errors import RefusedError

# What share of the requests must keep both objectives.
SHARE = 0.99


def ladder(low: float, high: float, steps: int) -> list[float]:
    """Rates evenly spaced by their logarithm; a search of `steps` halvings ends on one of them."""
    if not 0 < low < high or steps < 2:
        raise RefusedError("--goodput: from a rate above 0 to a higher one, in 2 steps or more")
    rungs = 2**steps - 1
    return [low * (high / low) ** (at / (rungs - 1)) for at in range(rungs)]


@dataclass(slots=True)
class Climb:
    """One contestant's way on the ladder."""

    rungs: Sequence[float]
    # The highest rung that was kept; -1: none.
    kept: int = -1
    # The lowest that was not.
    missed: int = field(init=False)

    def __post_init__(self) -> None:
        self.missed = len(self.rungs)

    @property
    def at(self) -> int:
        """The rung to try next."""
        return (self.kept + self.missed) // 2

    @property
    def is_over(self) -> bool:
        """Whether all is known."""
        return self.missed - self.kept <= 1

    def note(self, share: float) -> bool:
        """Such a share of the requests at this rung kept both objectives; whether it is enough."""
        enough = share >= SHARE
        if enough:
            self.kept = self.at
        else:
            self.missed = self.at
        return enough
