"""Watching a file: every change is noticed once, when it has settled."""

import asyncio
import os
from pathlib import Path

import pytest

from weighbridge.errors import ConfigError
from weighbridge.process.watch import changes, follow, stamp


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


async def test_files_that_do_not_fit_together_are_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    certificate.write_text("1")
    key.write_text("1")
    taken: list[str] = []

    async def take() -> None:
        if certificate.read_text() != key.read_text():
            raise ConfigError("they do not fit")
        taken.append(key.read_text())

    task = asyncio.create_task(follow("certificates", [certificate, key], 0.01, take))
    async with asyncio.timeout(5):
        while taken != ["1"]:
            await asyncio.sleep(0.01)
        certificate.write_text("22")
        await asyncio.sleep(0.1)
        assert taken == ["1"]
        key.write_text("22")
        while taken != ["1", "22"]:
            await asyncio.sleep(0.01)
    task.cancel()
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == ["certificates not reloaded: they do not fit"], "once, not each time"


async def test_what_is_no_file_is_never_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    os.mkfifo(token)
    taken: list[str] = []

    async def take() -> None:
        taken.append(token.read_text())

    task = asyncio.create_task(follow("token", [token], 0.01, take))
    async with asyncio.timeout(5):
        while not caplog.records:
            await asyncio.sleep(0.01)
        token.unlink()
        token.write_text("1")
        while taken != ["1"]:
            await asyncio.sleep(0.01)
    task.cancel()
    [said] = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert said == f"token not reloaded: {token}: is no regular file"
