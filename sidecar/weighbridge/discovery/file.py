"""Replicas listed in a file of their own, which is read again when it changes."""

from collections.abc import AsyncGenerator
from pathlib import Path

from pydantic import Field

from weighbridge.config import reading
from weighbridge.config.discovery import FileSource
from weighbridge.config.fleet import Replica
from weighbridge.config.schema import Section
from weighbridge.discovery.source import Found, SourceError
from weighbridge.errors import ConfigError
from weighbridge.process.watch import changes, require_regular


class ReplicaFile(Section):
    """The whole file."""

    replicas: tuple[Replica, ...] = Field(description="The replicas.")


def read(path: Path) -> tuple[Found, ...]:
    """The file's list. SourceError names the file and the key."""
    try:
        require_regular(path)
        content = reading.read(path, ReplicaFile)
    except ConfigError as error:
        raise SourceError(str(error)) from None
    return tuple(Found(replica) for replica in content.replicas)


class FileList:
    """A file with the key `replicas`; YAML, or JSON, which is YAML too."""

    def __init__(self, settings: FileSource, base: Path) -> None:
        self._path = base / settings.path
        self._interval_seconds = settings.interval_seconds
        self.name = settings.label

    async def lists(self) -> AsyncGenerator[tuple[Found, ...], None]:
        """The list as it is, and again after each change."""
        # Watched from before it is read, so that no change is missed in between.
        changed = changes(self._path, self._interval_seconds)
        yield read(self._path)
        async for _ in changed:
            yield read(self._path)
