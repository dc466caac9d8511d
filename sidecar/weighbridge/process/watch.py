"""Notices that a file has changed, by looking at it now and then."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from stat import S_ISREG

from weighbridge.errors import ConfigError

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None


def stamp(path: Path) -> Stamp:
    """What changes when the file does: inode, size, time. None while there is no file.

    Follows links, so that the swapped links of a mounted ConfigMap count as a change.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def require_regular(path: Path) -> None:
    """ConfigError where a path leads to no file: to read a pipe or device may never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if not S_ISREG(mode):
        raise ConfigError(f"{path}: is no regular file")


def changes(path: Path, interval_seconds: float) -> AsyncGenerator[None, None]:
    """Yields once the file differs from now and has held still for one interval."""
    return changes_since(stamp(path), path, interval_seconds)


async def changes_since(
    known: Stamp, path: Path, interval_seconds: float
) -> AsyncGenerator[None, None]:
    """The same, from what the file was at an earlier time."""
    last = known
    while True:
        await asyncio.sleep(interval_seconds)
        now = stamp(path)
        if now is not None and now == last and now != known:
            known = now
            yield
        last = now


async def follow(
    what: str, paths: Sequence[Path], interval_seconds: float, take: Callable[[], Awaitable[None]]
) -> None:
    """Calls `take` each time that a file has changed, until all of them fit together.

    While they do not (a rotation writes one after the other) `take` raises ConfigError, and what
    it took before stays in use.
    """
    # Taken at once: what has changed since it was read first is not to be missed.
    known: list[Stamp] | None = None
    complained: list[Stamp] = []
    while True:
        now = [stamp(path) for path in paths]
        if now != known:
            try:
                for path in paths:
                    require_regular(path)
                await take()
            except ConfigError as error:
                if complained != now:
                    log.error("%s not reloaded: %s", what, error)
                    complained = now
            else:
                if known is not None:
                    log.info("%s reloaded from %s", what, paths[0])
                known = now
        await asyncio.sleep(interval_seconds)
