"""What the console's page is told, as server-sent events: the status, the slices, the decisions."""

from collections.abc import Callable, Mapping

import orjson

from weighbridge._core import Core
from weighbridge.admin.reasons import why
from weighbridge.net.sse import event
from weighbridge.shapes import Decision, Door, Status

# Of each kind at most so many are told at once.
DECISIONS = 50
TENANTS = 200
TOLD = (
    "version",
    "streams",
    "replicas",
    "assignment",
    "autoscaling",
    "reasons",
    "errors",
    "observe_only",
    "observed",
    "runtime",
)


class Feed:
    """The events of one viewer: each call tells what is new since the last."""

    def __init__(self, core: Core, snapshot: Callable[[], Status]) -> None:
        self._core = core
        self._snapshot = snapshot
        self._decision = 0
        self._assignment = -1

    def next(self) -> bytes:
        """The next events."""
        status = self._snapshot()
        events = [event("status", told(status))]
        number = status["assignment"]["number"]
        if number != self._assignment:
            self._assignment = number
            events.append(event("slices", orjson.loads(self._core.slices())))
        decisions: list[Decision] = orjson.loads(self._core.latest_decisions(DECISIONS))
        latest = [one for one in decisions if one["number"] > self._decision]
        if latest:
            self._decision = latest[-1]["number"]
            events.append(event("decisions", [{**one, "why": why(one)} for one in latest]))
        return b"".join(events)


def told(status: Status) -> dict[str, object]:
    """The part of a status that the page shows."""
    whole: dict[str, object] = dict(status)
    return {key: whole[key] for key in TOLD} | {"tenants": tenants(status["admission"])}


def tenants(doors: Mapping[str, Door]) -> list[dict[str, object]]:
    """The tenants with most work, by model."""
    rows = [(model, tenant) for model, door in doors.items() for tenant in door["tenants"]]
    rows.sort(key=lambda row: (-row[1]["billed_mu"], row[1]["tenant"]))
    return [{"model": model, **tenant} for model, tenant in rows[:TENANTS]]
