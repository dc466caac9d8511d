"""What a source of replicas is: a stream of complete lists."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from weighbridge.address import HostPort
from weighbridge.config.discovery import Template
from weighbridge.config.fleet import Replica, ReplicaState
from weighbridge.config.schema import LONGEST_DOMAIN


class SourceError(Exception):
    """A source cannot tell its list now; the message is one line."""


@dataclass(frozen=True, slots=True)
class Found:
    """One replica in a source's list."""

    replica: Replica
    # As the source sees it.
    state: ReplicaState = "healthy"


class Source(Protocol):
    """Tells which replicas there are."""

    @property
    def name(self) -> str:
        """For logs and metrics; no two sources have the same."""

    def lists(self) -> AsyncGenerator[tuple[Found, ...], None]:
        """Complete lists: one at once, then whenever there may be another.

        Raises SourceError when it cannot tell; it is then asked anew after a while.
        """


def from_template(
    template: Template,
    where: HostPort,
    domain: str = "",
    state: ReplicaState = "healthy",
) -> Found:
    """A replica at an address, with what all of its source have in common.

    A `domain` that is too long is cut: it costs the source no list.
    """
    return Found(
        Replica(
            endpoint=str(where),
            profile=template.profile,
            model=template.model,
            adapters=template.adapters,
            domain=domain[:LONGEST_DOMAIN] or template.domain,
        ),
        state,
    )
