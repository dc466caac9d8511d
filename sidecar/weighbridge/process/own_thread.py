"""An event loop on a thread of its own: nothing that runs elsewhere holds up what runs there."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class OwnThread:
    """Runs coroutines for other threads' loops, until it is left."""

    def __init__(self, name: str) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def __aenter__(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        await asyncio.to_thread(self._has_begun.wait)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancels what still runs there, and waits until it has ended."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` there and gives what came of it; cancelled here, it is cancelled there."""
        if self._loop is None:
            work.close()
            raise RuntimeError("the thread has not begun")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _run(self) -> None:
        asyncio.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._has_begun.set()
        await self._stop.wait()
