"""The usage log: what each request took, a line of JSON each, for bills and for those who check.

Lines are appended and forced to the disk at least once a second, so a kill loses the last second
at most. A full disk holds up nothing: records wait in the core up to a limit, and then the oldest
are lost and counted.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from weighbridge._core import Core
from weighbridge.config.records import UsageLog
from weighbridge.process.loops import Loops

log = logging.getLogger(__name__)

BATCH = 10_000


class UsageWriter:
    """Takes the core's records and writes them down."""

    def __init__(
        self,
        core: Core,
        settings: UsageLog,
        note: Callable[[list[dict[str, Any]]], None] = lambda _: None,
        loops: Loops | None = None,
        base: Path = Path(),
    ) -> None:
        """`note` is told of the records too; that it breaks is counted in `loops`.

        The file is relative to `base`.
        """
        self._core = core
        self._note = note
        self._loops = loops or Loops()
        # The last write, when the sidecar ends, may meet one that a thread is still at.
        self._writing = threading.Lock()
        self._settings = settings
        self._path = None if settings.path is None else base / settings.path
        self._pending: list[bytes] = []
        self._failing = False
        # The core's clock starts with it; records tell the time in s since 1970 as well.
        self._epoch = time.time() - core.now_us() / 1e6

    async def run(self) -> None:
        """Writes until cancelled, and what is left then."""
        try:
            while True:
                await asyncio.sleep(self._settings.interval_seconds)
                await asyncio.to_thread(self.write)
        except asyncio.CancelledError:
            self.write()
            raise

    def write(self) -> None:
        """Writes down what the core has, as far as the disk takes it."""
        if self._path is None:
            return
        with self._writing:
            while self._pending or self._take():
                if not self._write_pending(self._path):
                    return

    def _take(self) -> bool:
        """Takes the next records from the core, if it has any, and tells of them."""
        records = [self._dated(record) for record in self._core.take_usage(BATCH)]
        self._pending = [orjson.dumps(one) for one in records]
        if not records:
            return False
        try:
            self._note(records)
        except Exception:
            # Whatever else wants to know of the records, bills are made from what is written.
            self._loops.broke("usage_note")
        return True

    def _write_pending(self, path: Path) -> bool:
        """Writes down what was taken; False when the disk does not take it."""
        try:
            size = self._append(path, self._pending)
            # Written once and for all, whatever becomes of the rotation.
            self._pending = []
            if size >= self._settings.max_bytes:
                self._rotate(path)
        except OSError as error:
            if not self._failing:
                log.error("usage log: %s: %s", path, error.strerror or error)
            self._failing = True
            return False
        if self._failing:
            log.info("usage log: %s is written again", path)
        self._failing = False
        return True

    def _dated(self, record: str) -> dict[str, Any]:
        fields: dict[str, Any] = orjson.loads(record)
        fields["ended_at"] = round(self._epoch + fields["ended_us"] / 1e6, 6)
        return fields

    def _append(self, path: Path, lines: list[bytes]) -> int:
        """Appends to the file; its size in bytes then."""
        text = b"".join(line + b"\n" for line in lines)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            end = _last_line_end(descriptor)
            try:
                # A half line is what a kill or a full disk left of an earlier one.
                os.ftruncate(descriptor, end)
                os.lseek(descriptor, end, os.SEEK_SET)
                _write_all(descriptor, text)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
            return end + len(text)
        finally:
            os.close(descriptor)

    def _rotate(self, path: Path) -> None:
        for number in range(self._settings.files - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))


def _write_all(descriptor: int, text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(descriptor, view) :]


def _last_line_end(descriptor: int, piece: int = 65_536) -> int:
    """Where the last whole line ends."""
    at = os.lseek(descriptor, 0, os.SEEK_END)
    while at > 0:
        start = max(0, at - piece)
        found = os.pread(descriptor, at - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0
