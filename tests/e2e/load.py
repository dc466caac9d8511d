"""Load for the fault tests: streams and whole answers without pause, and what became of each."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from tests.e2e.harness import Running
from weighbridge.envoy.failures import ANSWER_BYTES_HEADER

Fate = Literal["answered", "refused", "broken", "lost"]

# Rounds and times in a tenth of the defaults: a test waits for each of them.
QUICK_HEALTH = {
    "interval_seconds": 0.2,
    "timeout_seconds": 0.5,
    "round_seconds": 0.2,
    "ejection_seconds": 1,
    "successes": 2,
}
# Some blocks of the prefix index.
SUBJECT = "on the same subject at length, as ever, " * 30
QUICK_TELEMETRY = {"interval_seconds": 0.3}


@dataclass
class Outcome:
    """What became of requests: answered; refused by a status; broken in the midst of the answer;
    lost without one. And who served those that were answered, from when on."""

    fates: Counter[Fate] = field(default_factory=Counter)
    served: list[tuple[float, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def by(self, since: float) -> Counter[str]:
        """How many each replica has begun to answer since then."""
        return Counter(replica for at, replica in self.served if at >= since)


def now() -> float:
    """Seconds on the loop's clock."""
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def load(
    running: Running, workers: int = 12, tokens: int = 40, stream: bool = True, **body: Any
) -> AsyncIterator[Outcome]:
    """Requests without pause while the context lasts, every worker's four turns a session."""
    outcome, stop = Outcome(), asyncio.Event()

    async def work(worker: int) -> None:
        turn = 0
        while not stop.is_set():
            session = f"{worker}.{turn // 4}"
            text = f"session {session} {SUBJECT} asks {turn}"
            asked = running.chat(text, max_tokens=tokens, stream=stream and worker % 2 == 0, **body)
            headers = {
                "x-emulate-output-tokens": str(tokens),
                "x-session-id": session,
                "content-type": "application/json",
            }
            fate = await ask(running, json.dumps(asked).encode(), headers, outcome)
            outcome.fates[fate] += 1
            turn += 1
            if fate != "answered":
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        for worker in range(workers):
            group.create_task(work(worker))
        try:
            yield outcome
        finally:
            stop.set()


async def ask(running: Running, body: bytes, headers: dict[str, str], outcome: Outcome) -> Fate:
    """One request to its end."""
    begun = False
    try:
        async with running.client.post(
            "/v1/chat/completions", data=body, headers=headers
        ) as response:
            if response.status != 200:
                text = (await response.read())[:200].decode("utf-8", "replace")
                # Its replica failed after the answer's headers, of which the client saw nothing.
                if int(response.headers.get(ANSWER_BYTES_HEADER, 0)) > 0:
                    return "broken"
                outcome.refusals.append(f"{response.status} {text}")
                return "refused"
            begun = True
            outcome.served.append((now(), response.headers.get("x-served-by", "")))
            await response.read()
            return "answered"
    except (aiohttp.ClientError, OSError):
        return "broken" if begun else "lost"
