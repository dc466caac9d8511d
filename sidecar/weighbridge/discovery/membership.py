"""Who is a member, and who may know of it: a replica's way from its coming to its leaving.

A replica that comes is told to Envoy first, and steered to once Envoy has it. One that leaves is
steered to no more, finishes what it has, and is taken from Envoy last. The time is an argument.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from weighbridge.config.fleet import Replica, ReplicaState
from weighbridge.discovery.source import Found

# Share of its capacity that a replica is given when it comes.
FIRST_SHARE = 0.1
# Envoy's workers know of a list a moment after Envoy has said so, s.
SETTLE_SECONDS = 0.2
# A decision made before a replica left reaches Envoy within this time, s.
LINGER_SECONDS = 2.0


class Stage(Enum):
    """Where a member is on its way."""

    # Envoy is told; nothing is steered there.
    ANNOUNCED = "announced"
    # Chosen like any other.
    SERVING = "serving"
    # Chosen only where there is no other; finishes what it has.
    LEAVING = "leaving"
    # Not chosen; Envoy still has it, for what was decided before.
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Member:
    """One replica."""

    found: Found
    stage: Stage
    # When the stage began, s.
    since: float
    # When it began to serve, s; None where it has served from the start.
    warm_since: float | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How replicas come and go, s."""

    drain_seconds: float
    warm_up_seconds: float
    # Longest that a new replica waits for Envoy's word; None: Envoy has its list from elsewhere.
    patience_seconds: float | None


class Membership:
    """All members. Not a replica is both unknown to Envoy and steered to, if Envoy is told here."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        # Another mapping after each change: other threads read the former one to its end.
        self._members: Mapping[str, Member] = {}

    @property
    def members(self) -> Mapping[str, Member]:
        """All members by their endpoint, as they are now: later changes are in another mapping."""
        return self._members

    @property
    def is_moving(self) -> bool:
        """Whether time alone will change something."""
        return any(
            member.stage is not Stage.SERVING or member.warm_since is not None
            for member in self._members.values()
        )

    @property
    def has_any(self) -> bool:
        """Whether any member may be chosen."""
        steered = (Stage.SERVING, Stage.LEAVING)
        return any(member.stage in steered for member in self._members.values())

    @property
    def is_leaving(self) -> bool:
        """Whether any member finishes what it has."""
        return any(member.stage is Stage.LEAVING for member in self._members.values())

    def want(self, found: Iterable[Found], now: float, at_start: bool) -> None:
        """Takes a complete list. Replicas `at_start` need not warm up."""
        wanted = {one.replica.endpoint: one for one in found}
        members = dict(self._members)
        for endpoint, one in wanted.items():
            members[endpoint] = self._wanted(members.get(endpoint), one, now, at_start)
        for endpoint, member in self._members.items():
            if endpoint in wanted:
                continue
            if member.stage is Stage.ANNOUNCED:
                members[endpoint] = replace(member, stage=Stage.LEFT, since=now)
            elif member.stage is Stage.SERVING:
                members[endpoint] = replace(member, stage=Stage.LEAVING, since=now)
        self._members = members

    def _wanted(self, member: Member | None, found: Found, now: float, at_start: bool) -> Member:
        warm_since = None if at_start or self.pace.warm_up_seconds == 0 else now
        if member is None or member.stage is Stage.LEFT:
            # At the start nothing is steered yet, and Envoy has taken its list by then.
            waits = self.pace.patience_seconds is not None and not at_start
            stage = Stage.ANNOUNCED if waits else Stage.SERVING
            return Member(found, stage, now, warm_since)
        if member.stage is Stage.LEAVING:
            return Member(found, Stage.SERVING, now)
        return replace(member, found=found)

    def step(self, now: float, in_flight: Mapping[str, int], envoy_has: frozenset[str]) -> bool:
        """Moves members on: `in_flight` are requests at each, `envoy_has` whom Envoy has taken.

        True where anything has changed.
        """
        changed = False
        members = {}
        for endpoint, member in self._members.items():
            moved = self._moved(member, now, in_flight.get(endpoint, 0), endpoint in envoy_has)
            changed |= moved is not member
            if moved is not None:
                members[endpoint] = moved
        if changed:
            self._members = members
        return changed

    def _moved(self, member: Member, now: float, requests: int, envoy_has: bool) -> Member | None:
        age = now - member.since
        patience = self.pace.patience_seconds
        match member.stage:
            case Stage.ANNOUNCED:
                if patience is None or age >= patience or (envoy_has and age >= SETTLE_SECONDS):
                    warm = None if member.warm_since is None else now
                    return replace(member, stage=Stage.SERVING, since=now, warm_since=warm)
            case Stage.SERVING:
                warm = member.warm_since
                if warm is not None and now - warm >= self.pace.warm_up_seconds:
                    return replace(member, warm_since=None)
            case Stage.LEAVING:
                # Not at once: what was decided a moment ago is on its way.
                if age >= self.pace.drain_seconds or (requests == 0 and age >= SETTLE_SECONDS):
                    return (
                        None if patience is None else replace(member, stage=Stage.LEFT, since=now)
                    )
            case Stage.LEFT:
                if patience is None or age >= LINGER_SECONDS:
                    return None
        return member

    def steered(self, now: float) -> list[tuple[Replica, ReplicaState]]:
        """Whom the sidecar may choose, with the state that the sources give and the share now."""
        chosen: list[tuple[Replica, ReplicaState]] = []
        for member in self._members.values():
            if member.stage is Stage.SERVING:
                chosen.append((self._shared(member, now), member.found.state))
            elif member.stage is Stage.LEAVING:
                chosen.append((member.found.replica, "draining"))
        return chosen

    def _shared(self, member: Member, now: float) -> Replica:
        replica = member.found.replica
        if member.warm_since is None:
            return replica
        part = (now - member.warm_since) / max(self.pace.warm_up_seconds, 1e-9)
        share = FIRST_SHARE + (1 - FIRST_SHARE) * min(max(part, 0.0), 1.0)
        return replica.model_copy(update={"share": replica.share * share})

    def told(self) -> list[Replica]:
        """Whom Envoy is told, in an order that does not change by itself."""
        return [self._members[endpoint].found.replica for endpoint in sorted(self._members)]
