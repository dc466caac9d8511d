"""Watching a file: every change is noticed once, when it has settled."""

import asyncio
import os
from pathlib import Path

from weighbridge.watch import changes, stamp


async def test_changes_are_noticed_and_only_they(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    seen = 0

    async def follow() -> None:
        nonlocal seen
        async for _ in changes(path, 0.01):
            seen += 1

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.1)
    assert seen == 0
    path.write_text("22")
    while seen < 1:
        await asyncio.sleep(0.01)
    # Replaced as editors and ConfigMaps do it: another file takes its name.
    other = tmp_path / "other"
    other.write_text("33")
    os.replace(other, path)
    while seen < 2:
        await asyncio.sleep(0.01)
    path.unlink()
    await asyncio.sleep(0.1)
    assert seen == 2
    path.write_text("4")
    while seen < 3:
        await asyncio.sleep(0.01)
    task.cancel()


def test_no_file_has_no_stamp(tmp_path: Path) -> None:
    assert stamp(tmp_path / "none") is None
