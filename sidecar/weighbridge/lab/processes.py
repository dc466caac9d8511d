"""Child processes: started in groups of their own, watched, stopped with all they started."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from weighbridge.errors import RefusedError

TETHER = Path(__file__).with_name("tether.py")
LAST_WORDS_BYTES = 8192


class Child:
    """One running command, in its own process group; its output goes to a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Starts the command. It is killed by the kernel should this process die."""
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(TETHER),
                str(os.getpid()),
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        """Of the process and of its group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Waits for its end."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process, if it still runs."""
        if self.returncode is None:
            self._process.send_signal(number)

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, time to finish, then SIGKILL for the whole group."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), grace_seconds)
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """SIGKILL for the process and for whatever of its group is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """The last line that it wrote."""
        try:
            with self.log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - LAST_WORDS_BYTES))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].strip() if lines else ""

    def obituary(self) -> RefusedError:
        """What to tell the user of its unexpected end."""
        code = self.returncode
        how = (
            f"was killed by signal {-code}" if code is not None and code < 0 else f"exited ({code})"
        )
        words = self.last_words()
        return RefusedError(f"{self.name} {how}{': ' + words if words else ''}")


class Family:
    """All children of a command. Leaving the context stops them, the last started first."""

    def __init__(self, log_directory: Path, grace_seconds: float = 5.0) -> None:
        self._log_directory = log_directory
        self._grace_seconds = grace_seconds
        self._children: list[Child] = []
        self._watched: dict[str, Child] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for child in reversed(self._children):
                await child.stop(self._grace_seconds)
        finally:
            for child in self._children:
                child.kill()

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Child:
        """Starts a child whose output goes to NAME.log. It takes the place of an earlier one."""
        log = self._log_directory / f"{name}.log"
        child = await Child.start(name, command, log, environment)
        self._children.append(child)
        self._watched[name] = child
        return child

    def running(self, name: str) -> Child:
        """The child of this name that runs. KeyError where there is none."""
        child = self._watched[name]
        if child.returncode is not None:
            raise KeyError(name)
        return child

    def sessions(self) -> set[int]:
        """The process sessions of all children ever started: what they start belongs to them."""
        return {child.pid for child in self._children}

    async def first_death(self) -> Child:
        """Waits until any child has ended whose place none has taken."""
        waits = {asyncio.ensure_future(child.wait()): child for child in self._watched.values()}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[done.pop()]
        finally:
            for wait in waits:
                wait.cancel()
