"""The sidecar's loops: one that breaks is logged with its trace, counted, and goes on."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping

log = logging.getLogger(__name__)

# Until a loop that broke goes on, s: one that breaks at once must not fill the log.
PAUSE_SECONDS = 1.0


async def ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancels tasks and waits until each has done what it does last."""
    for task in tasks:
        task.cancel()
    # Not each by itself: the one that waits here may be cancelled as well, and must notice.
    if tasks:
        await asyncio.wait(tasks)


class Loops:
    """Keeps loops running, and counts how often each has broken."""

    def __init__(self, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._pause_seconds = pause_seconds
        self._failures: Counter[str] = Counter()

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each loop has broken, by name; those that never ran are missing."""
        return dict(self._failures)

    async def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work`, and again each time that it breaks, until it ends by itself."""
        self._failures[name] += 0
        while True:
            try:
                await work()
                return
            except Exception:
                self.broke(name)
            await asyncio.sleep(self._pause_seconds)

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """The same as a task."""
        return asyncio.create_task(self.keep(name, work), name=name)

    def broke(self, name: str) -> None:
        """Logs and counts the exception that is being handled."""
        self._failures[name] += 1
        log.exception("%s broke, and goes on", name)
