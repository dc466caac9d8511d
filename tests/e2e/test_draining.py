"""Draining and joining: sessions leave at turn ends, streams end, who is new warms up."""

import asyncio
import itertools
from typing import Any

import aiohttp

from tests.e2e.harness import Running, Starter, until
from weighbridge.shapes import Replica


async def change(running: Running, verb: str, endpoint: str) -> dict[str, Any]:
    """Asks the sidecar's admin port to drain a replica, or to take that back."""
    url = f"http://{running.stack.config.admin.address}/{verb}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, params={"replica": endpoint}, json={}) as response,
    ):
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def replica_status(running: Running, endpoint: str) -> Replica:
    """What the sidecar says of a replica."""
    replicas = (await running.stack.status())["replicas"]
    return next(one for one in replicas if one["endpoint"] == endpoint)


async def test_sessions_leave_a_drained_replica_at_turn_ends_and_streams_end_there(
    start: Starter,
) -> None:
    async with start(speed=4.0) as running:
        sessions = [{"x-session-id": f"s{number}"} for number in range(12)]

        async def turn(session: dict[str, str]) -> str:
            return (await running.post(running.chat("next"), session)).replica

        before = [await turn(session) for session in sessions]
        victim = before[0]
        body = running.chat("next", stream=True, max_tokens=600)
        long = sessions[0] | {"x-emulate-output-tokens": "600"}
        streaming = asyncio.create_task(running.post(body, long))

        async def has_begun() -> bool:
            return bool((await replica_status(running, victim))["requests"])

        await until(has_begun)
        answer = await change(running, "drain", victim)
        assert (answer["state"], answer["requests"]) == ("draining", 1)
        after = [await turn(session) for session in sessions]
        assert victim not in after
        stayed = [now == then for now, then in zip(after, before, strict=True) if then != victim]
        assert all(stayed)
        assert not streaming.done(), "the stream should outlive the turns"
        reply = await streaming
        assert reply.replica == victim
        assert reply.body.rstrip().endswith(b"data: [DONE]")

        async def is_free() -> bool:
            return not (await replica_status(running, victim))["requests"]

        await until(is_free)
        assert (await change(running, "undrain", victim))["state"] == "healthy"
        fresh = itertools.count()

        async def is_used_again() -> bool:
            return await turn({"x-session-id": f"new {next(fresh)}"}) == victim

        await until(is_used_again)


async def test_a_replica_that_a_reload_adds_warms_up_by_degrees(running: Running) -> None:
    content = running.stack.config_content() | {"discovery": {"warm_up_seconds": 6.0}}
    *others, last = content["replicas"]
    running.stack.write_config(content | {"replicas": others})

    async def share() -> float | None:
        replicas = (await running.stack.status())["replicas"]
        shares = [one["share"] for one in replicas if one["endpoint"] == last["endpoint"]]
        return shares[0] if shares else None

    async def has_left() -> bool:
        return await share() is None

    await until(has_left)
    running.stack.write_config(content)
    seen: list[float] = []

    async def is_warm() -> bool:
        now = await share()
        seen.extend([now] if now is not None else [])
        return now == 1.0

    await until(is_warm)
    assert seen == sorted(seen)
    assert 0.0 < seen[0] < 0.4
    assert any(0.4 <= one < 1.0 for one in seen)
