"""Notices that a file has changed, by looking at it now and then."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

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
