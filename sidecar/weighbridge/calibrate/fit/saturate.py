"""Capacity: the MU that a saturated replica does in a minute."""

from collections.abc import Sequence

from weighbridge.calibrate.fit.points import Measurement, Served
from weighbridge.calibrate.fit.steps import MS_PER_MINUTE, Costs


def capacity_mu_per_min(measured: Measurement, costs: Costs) -> float:
    """Work done per minute while every client was busy and the first wave had passed.

    A request's work counts as spread evenly over its life, so that those that are under way at
    the window's ends count in part.
    """
    begin, end = window(measured.served)
    done = sum(
        costs.mu(one.prompt, one.cached, one.output) * overlap(one, begin, end)
        for one in measured.served
    )
    return done * MS_PER_MINUTE / max(end - begin, 1e-9)


def window(served: Sequence[Served]) -> tuple[float, float]:
    """From the end of half of the first requests to the start of the first idleness, ms."""
    firsts: dict[int, float] = {}
    lasts: dict[int, float] = {}
    for one in served:
        firsts[one.client] = min(firsts.get(one.client, one.end_ms), one.end_ms)
        lasts[one.client] = max(lasts.get(one.client, one.end_ms), one.end_ms)
    ends = sorted(firsts.values())
    begin = ends[len(ends) // 2]
    # A few clients may be early; the replica is full without them.
    idle = sorted(lasts.values())
    end = idle[len(idle) // 16]
    if end <= begin:
        return 0.0, max(one.end_ms for one in served)
    return begin, end


def overlap(one: Served, begin: float, end: float) -> float:
    """The part of a request's life within the window."""
    life = max(one.end_ms - one.start_ms, 1e-9)
    return max(0.0, min(one.end_ms, end) - max(one.start_ms, begin)) / life
