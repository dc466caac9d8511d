"""What the console's page is told, as server-sent events: the status, the slices, the decisions."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from weighbridge._core import Core
from weighbridge.admin.reasons import why
from weighbridge.net.sse import event

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

    def __init__(self, core: Core, snapshot: Callable[[], dict[str, Any]]) -> None:
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
        decisions = orjson.loads(self._core.latest_decisions(DECISIONS))
        latest = [one | {"why": why(one)} for one in decisions if one["number"] > self._decision]
        if latest:
            self._decision = latest[-1]["number"]
            events.append(event("decisions", latest))
        return b"".join(events)


def told(status: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a status that the page shows."""
    return {key: status[key] for key in TOLD} | {"tenants": tenants(status["admission"])}


def tenants(doors: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tenants with most work, by model."""
    rows = [
        {"model": model, **tenant} for model, door in doors.items() for tenant in door["tenants"]
    ]
    rows.sort(key=lambda row: (-row["billed_mu"], row["tenant"]))
    return rows[:TENANTS]
