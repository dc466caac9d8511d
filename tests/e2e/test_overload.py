"""More than a replica can do, through a real Envoy: as much is served, and who goes first."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.harness import Running, Starter

# A prompt of some 17,000 tokens takes a replica about a third of a second.
WORDS = 17_000
PROMPT_SECONDS = 0.35
SECONDS = 6.0
# Requests of each, in a row; the promised tenant asks for little, whatever the load.
MIX = ("standard", "sheddable", "standard", "sheddable")
GOLD_EVERY_SECONDS = 2.0
SIDECAR: dict[str, Any] = {
    "admission": {
        "queue": {"queue_window_ms": 2500, "max_wait_ms": 4000},
        "tenants": {
            "gold": {"guaranteed_mu_per_min": 30_000, "burst_mu": 2_000},
            "sheddable": {"priority": "sheddable"},
        },
    }
}


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    tenant: str
    status: int
    seconds: float


async def offer(running: Running, times: float) -> list[Answer]:
    """Offers so many times what the replica can do, for a while; all answers."""
    start = time.monotonic()

    async def one(number: int, tenant: str, at: float) -> Answer:
        await asyncio.sleep(max(0.0, start + at - time.monotonic()))
        begin = time.monotonic()
        # None is a prompt that was sent before: a cached one costs nothing.
        body = running.chat(f"{times} {tenant} {number} " + "word " * WORDS, max_tokens=4)
        reply = await running.post(body, headers={"x-tenant-id": tenant})
        return Answer(tenant, reply.status, time.monotonic() - begin)

    rate = times / PROMPT_SECONDS
    flood = [
        one(number, MIX[number % len(MIX)], number / rate) for number in range(int(SECONDS * rate))
    ]
    asks = int(SECONDS / GOLD_EVERY_SECONDS)
    gold = [one(number, "gold", (number + 0.5) * GOLD_EVERY_SECONDS) for number in range(asks)]
    return await asyncio.gather(*flood, *gold)


def of(answers: list[Answer], tenant: str, status: int = 200) -> list[float]:
    return [one.seconds for one in answers if (one.tenant, one.status) == (tenant, status)]


@pytest.mark.parametrize("transport", ["native"], indirect=True)
async def test_beyond_capacity_as_much_is_served_and_promises_are_kept(start: Starter) -> None:
    served = {}
    async with start(replicas=1, speed=1.0, sidecar=SIDECAR) as running:
        for times in (1.0, 2.0, 5.0):
            answers = await offer(running, times)
            assert {one.status for one in answers} <= {200, 429}
            served[times] = sum(one.status == 200 for one in answers)
            gold, standard = of(answers, "gold"), of(answers, "standard")
            assert len(gold) == sum(one.tenant == "gold" for one in answers), "none was refused"
            if times > 1:
                # As many of both came.
                refused = {who: len(of(answers, who, 429)) for who in ("sheddable", "standard")}
                assert refused["sheddable"] > refused["standard"], refused
                assert statistics.median(gold) < statistics.median(standard)
            await running.settled()
    assert min(served[2.0], served[5.0]) >= 0.8 * served[1.0], served
