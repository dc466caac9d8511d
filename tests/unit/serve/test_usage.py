"""The usage log: whole lines, rotated, nothing lost that the disk took."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from weighbridge._core import Core
from weighbridge.config.records import UsageLog
from weighbridge.process.loops import Loops
from weighbridge.serve.usage import UsageWriter


class Records:
    """A core that has records to give."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.given = 0

    def add(self, count: int) -> None:
        for _ in range(count):
            self.given += 1
            self.waiting.append(json.dumps({"number": self.given, "ended_us": self.given * 1000}))

    def take_usage(self, most: int) -> list[str]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        return taken

    def now_us(self) -> int:
        return 0


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def writer(tmp_path: Path, records: Records) -> Callable[..., UsageWriter]:
    def make(**fields: Any) -> UsageWriter:
        settings = UsageLog(path=str(tmp_path / "usage.jsonl"), **fields)
        return UsageWriter(cast("Core", records), settings)

    return make


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["number"] for line in path.read_text().splitlines()]


def test_every_record_is_a_line(
    tmp_path: Path, records: Records, writer: Callable[..., UsageWriter]
) -> None:
    log = writer()
    for count in (3, 0, 2):
        records.add(count)
        log.write()
    path = tmp_path / "usage.jsonl"
    assert numbers(path) == [1, 2, 3, 4, 5]
    first = json.loads(path.read_text().splitlines()[0])
    assert first["ended_at"] > 1_600_000_000
    assert path.stat().st_mode & 0o007 == 0, "not for everyone to read"


def test_the_half_line_of_a_kill_is_cut_off(
    tmp_path: Path, records: Records, writer: Callable[..., UsageWriter]
) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_text('{"number":7}\n{"numb')
    records.add(1)
    writer().write()
    assert numbers(path) == [7, 1]


def test_files_are_set_aside_and_the_oldest_removed(
    tmp_path: Path, records: Records, writer: Callable[..., UsageWriter]
) -> None:
    log = writer(max_bytes=1024, files=2)
    for _ in range(8):
        records.add(20)
        log.write()
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["usage.jsonl.1", "usage.jsonl.2"]
    assert numbers(tmp_path / "usage.jsonl.1")[-1] == 160


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_loses_nothing_that_still_fits_in_memory(
    tmp_path: Path, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "usage.jsonl"
    os.symlink("/dev/full", path)
    log = UsageWriter(cast("Core", records), UsageLog(path=str(path)))
    records.add(3)
    log.write()
    log.write()
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1
    path.unlink()
    records.add(1)
    log.write()
    assert numbers(path) == [1, 2, 3, 4]


def test_who_breaks_on_a_record_keeps_no_record_from_the_log(
    tmp_path: Path, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(_: list[dict[str, Any]]) -> None:
        raise KeyError("replica")

    loops, settings = Loops(), UsageLog(path=str(tmp_path / "usage.jsonl"))
    log = UsageWriter(cast("Core", records), settings, breaks, loops)
    for _ in range(2):
        records.add(2)
        log.write()
    assert numbers(tmp_path / "usage.jsonl") == [1, 2, 3, 4]
    assert loops.failures["usage_note"] == 2
    assert "KeyError: 'replica'" in caplog.text, "with its trace"


async def test_what_is_left_is_written_when_the_sidecar_ends(
    tmp_path: Path, records: Records, writer: Callable[..., UsageWriter]
) -> None:
    running = asyncio.create_task(writer(interval_seconds=1).run())
    await asyncio.sleep(0)
    records.add(3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert numbers(tmp_path / "usage.jsonl") == [1, 2, 3]


def test_a_rotation_that_fails_bills_nothing_twice(
    tmp_path: Path, records: Records, writer: Callable[..., UsageWriter]
) -> None:
    log, path = writer(max_bytes=65_536, files=1), tmp_path / "usage.jsonl"
    # A folder that is not empty cannot be replaced by a file.
    (tmp_path / "usage.jsonl.1" / "full").mkdir(parents=True)
    records.add(3_000)
    log.write()
    records.add(1)
    log.write()
    assert numbers(path) == list(range(1, 3_002))


def test_the_file_is_where_the_configuration_says_not_where_the_process_is(
    tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, elsewhere = tmp_path / "etc", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    records.add(1)
    UsageWriter(cast("Core", records), UsageLog(path="usage.jsonl"), base=beside).write()
    assert numbers(beside / "usage.jsonl") == [1]
    assert not list(elsewhere.iterdir())
