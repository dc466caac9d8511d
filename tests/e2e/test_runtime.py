"""Envoy's admin port as the ops panel: keys set there take effect within a second."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.e2e.harness import Running, Starter, until
from weighbridge.config.listen import Transport


@pytest.fixture
def transport() -> Transport:
    """One of them: keys take the same way to the core, whoever asks it."""
    return "native"


async def modify(running: Running, **keys: Any) -> None:
    """Sets runtime keys; an empty text takes one back."""
    query = {f"weighbridge.{name}": str(value) for name, value in keys.items()}
    url = f"{running.stack.envoy_admin_url}/runtime_modify"
    async with aiohttp.ClientSession() as session, session.post(url, params=query) as answer:
        assert answer.status == 200


async def keys_set(running: Running) -> dict[str, Any]:
    status = await running.stack.status()
    values: dict[str, Any] = status["runtime"]["set"]
    return {name.removeprefix("weighbridge."): one["value"] for name, one in values.items()}


async def soon(running: Running, wanted: dict[str, Any]) -> None:
    """Waits until just these keys are set: twice the second that is promised, on busy machines."""

    async def as_wanted() -> bool:
        return await keys_set(running) == wanted

    await until(as_wanted, 2)


@asynccontextmanager
async def long_request(running: Running) -> AsyncIterator[None]:
    """A request that keeps its replica busy meanwhile."""
    body = running.chat("busy", max_tokens=700, ignore_eos=True)
    task = asyncio.create_task(running.post(body, headers={"x-session-id": "s"}))
    await asyncio.sleep(0.3)
    yield
    assert (await task).status == 200


async def test_a_key_takes_effect_and_is_taken_back(start: Starter) -> None:
    async with start(replicas=2, speed=2.0) as running:

        async def spilled() -> bool:
            """Whether a session leaves its home while that is busy."""
            reply = await running.post(running.chat("hi"), headers={"x-session-id": "s"})
            decision = await running.decision_of(reply)
            return bool(decision["reason"] not in {"home", "cached"})

        await modify(running, spill_margin_ms=0, spill_margin_share=0)
        await soon(running, {"spill_margin_ms": 0, "spill_margin_share": 0})
        async with long_request(running):
            assert await spilled()
        await running.settled()
        await modify(running, spill_margin_ms=1e9, spill_margin_share="")
        await soon(running, {"spill_margin_ms": 1e9})
        async with long_request(running):
            assert not await spilled()
        await modify(running, spill_margin_ms="")
        await soon(running, {})


async def test_bad_values_are_ignored_and_shown(running: Running) -> None:
    await modify(running, samples=999, no_such_key=1, stall_weight=0.5)
    await soon(running, {"stall_weight": 0.5})
    status = await running.stack.status()
    assert set(status["runtime"]["ignored"]) == {"weighbridge.samples", "weighbridge.no_such_key"}
    assert (await running.post(running.chat())).status == 200


async def test_observing_decides_and_steers_nothing(start: Starter) -> None:
    async with start(replicas=3) as running:
        await modify(running, observe_only="true")
        await soon(running, {"observe_only": True})
        sessions = [f"s{number % 4}" for number in range(16)]
        replies = [
            await running.post(
                running.chat("a long opening of " + session * 400),
                headers={"x-session-id": session},
            )
            for session in sessions
        ]
        assert all(reply.status == 200 for reply in replies)
        decisions = [await running.decision_of(reply) for reply in replies]
        assert not any(decision["steered"] for decision in decisions)
        observed = (await running.stack.status())["observed"]
        elsewhere = sum(
            decision["replica"] != reply.headers["x-served-by"]
            for decision, reply in zip(decisions, replies, strict=True)
        )
        assert (observed["decided"], observed["served"]) == (16, 16)
        assert observed["elsewhere"] == elsewhere > 0
        assert observed["served_mu"] > observed["decided_mu"] > 0
        # What would be refused reaches a replica, which says itself what it thinks of it.
        unknown = await running.post(running.chat() | {"model": "other"})
        assert unknown.replica
        assert (await running.stack.status())["observed"]["would_refuse"] == 1
        await modify(running, observe_only="")
        await soon(running, {})
        steered = await running.decision_of(await running.post(running.chat()))
        assert steered["steered"]


async def test_a_canary_from_nothing_to_all(running: Running) -> None:
    async def weighed(of: int) -> int:
        before = (await running.stack.decisions())[-1:]
        after = before[0]["number"] if before else 0
        replies = [await running.post(running.chat()) for _ in range(of)]
        assert all(reply.status == 200 for reply in replies)
        return len(await running.stack.decisions(after))

    assert await weighed(5) == 5
    await modify(running, weighed_percent=0)
    assert await weighed(10) == 0
    await modify(running, weighed_percent=50)
    # Of 60, each by a coin: outside of this range once in 10,000 times.
    assert 15 <= await weighed(60) <= 45
    await modify(running, weighed_percent=100)
    assert await weighed(5) == 5


async def test_what_was_set_holds_while_envoy_is_away(running: Running) -> None:
    await modify(running, samples=7)
    await soon(running, {"samples": 7})
    await running.family.running("envoy").stop(5)

    async def lost() -> bool:
        return (await running.stack.status())["runtime"]["reachable"] is False

    await until(lost, 5)
    assert await keys_set(running) == {"samples": 7}
    began = time.monotonic()
    await running.stack.start_envoy()
    await soon(running, {})
    assert time.monotonic() - began < 60
