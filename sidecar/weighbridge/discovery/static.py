"""Replicas listed in the configuration itself."""

from collections.abc import AsyncGenerator

from weighbridge.config.fleet import Replica
from weighbridge.discovery.source import Found


class StaticSource:
    """Tells one list and no other."""

    name = "replicas"

    def __init__(self, replicas: tuple[Replica, ...]) -> None:
        self._replicas = replicas

    async def lists(self) -> AsyncGenerator[tuple[Found, ...], None]:
        """The list, once."""
        yield tuple(Found(replica) for replica in self._replicas)
