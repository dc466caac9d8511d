"""Tenants through a real Envoy: promises under a flood, refusals that say when, exact usage."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.e2e.harness import Running, Starter, until, usage_lines, usage_of


def narrow(**queue: Any) -> dict[str, Any]:
    """So little may run at once that a few requests are a flood."""
    return {
        "admission": {
            "queue": {"window_ms": 5, "queue_requests": 4, "max_wait_ms": 20_000} | queue,
            "tenants": {"gold": {"guaranteed_mu_per_min": 600_000}},
        }
    }


def long(running: Running, index: int = 0) -> dict[str, Any]:
    return running.chat(f"tell me more of {index}", max_tokens=400, ignore_eos=True)


async def test_a_request_waits_longer_than_envoys_timeout_and_is_served(start: Starter) -> None:
    async with start(replicas=1, speed=1.0, sidecar=narrow()) as running:
        first = asyncio.create_task(running.post(long(running)))
        await asyncio.sleep(0.3)
        replies = await asyncio.gather(*(running.post(long(running, at)) for at in range(2)), first)
        assert [reply.status for reply in replies] == [200, 200, 200]
        assert all(reply.replica for reply in replies), "a replica served it, by our choice"
        status = await running.stack.status()
        [door] = status["admission"].values()
        assert sum(tenant["waited"] for tenant in door["tenants"]) >= 2


async def test_what_does_not_fit_is_refused_and_told_when(start: Starter) -> None:
    async with start(replicas=1, speed=1.0, sidecar=narrow(queue_requests=1)) as running:
        tasks = [asyncio.create_task(running.post(long(running, at))) for at in range(4)]
        replies = await asyncio.gather(*tasks)
        refused = [reply for reply in replies if reply.status == 429]
        assert refused
        for reply in refused:
            assert int(reply.headers["retry-after"]) >= 1
            assert int(reply.headers["x-ratelimit-limit"]) > 0
            assert int(reply.headers["x-ratelimit-remaining"]) == 0
            assert "x-ratelimit-reset" in reply.headers
            error = json.loads(reply.body)["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
        assert all(reply.status in {200, 429} for reply in replies)


async def test_a_promise_is_kept_while_others_wait(start: Starter) -> None:
    async with start(replicas=1, speed=1.0, sidecar=narrow()) as running:
        flood = [asyncio.create_task(running.post(long(running, at))) for at in range(4)]
        await asyncio.sleep(0.3)
        gold = await running.post(running.chat("hi"), headers={"x-tenant-id": "gold"})
        assert gold.status == 200
        assert not all(task.done() for task in flood), "the flood is still there"
        await asyncio.gather(*flood)


async def test_a_client_that_leaves_gives_up_its_place(start: Starter) -> None:
    async with start(replicas=1, speed=1.0, sidecar=narrow()) as running:
        first = asyncio.create_task(running.post(long(running)))
        await asyncio.sleep(0.3)
        second = asyncio.create_task(running.post(long(running, 1)))

        async def waiting() -> int:
            status = await running.stack.status()
            [door] = status["admission"].values()
            return sum(queue["requests"] for queue in door["waiting"].values())

        async def one_waits() -> bool:
            return await waiting() == 1

        async def none_waits() -> bool:
            return await waiting() == 0

        await until(one_waits)
        second.cancel()
        await until(none_waits)
        assert not first.done()
        assert (await first).status == 200


async def test_tokens_are_billed_as_the_replies_say(start: Starter, tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    async with start(sidecar={"usage_log": {"path": str(path)}}) as running:
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        wanted = {}
        for index in range(6):
            more = streamed if index % 2 else {}
            body = running.chat(f"question {index} " * 40, max_tokens=20 + index, **more)
            tenant = "acme" if index % 3 else "zeta"
            reply = await running.post(body, headers={"x-tenant-id": tenant})
            assert reply.status == 200
            wanted[reply.headers["x-request-id"]] = usage_of(reply.body)

        await until(lambda: len(usage_lines(path)) == len(wanted))
        lines = usage_lines(path)
        found = {
            line["request_id"]: (line["prompt_tokens"], line["output_tokens"]) for line in lines
        }
        assert found == wanted
        assert {line["source"] for line in lines} == {"usage"}
        status = await running.stack.status()
        [door] = status["admission"].values()
        billed = {tenant["tenant"]: tenant["billed_mu"] for tenant in door["tenants"]}
        for tenant in ("acme", "zeta"):
            taken = sum(line["mu"] for line in lines if line["tenant"] == tenant)
            assert abs(billed[tenant] - taken) < 1e-3


async def test_a_guarantee_that_would_be_late_ends_sheddable_work(start: Starter) -> None:
    sidecar = {
        "admission": {
            "cut_sheddable": True,
            "tenants": {
                "gold": {"guaranteed_mu_per_min": 30_000},
                "low": {"priority": "sheddable"},
            },
        },
        "placing": {"objectives_of": {"tenants": {"gold": {"ttft_ms": 300}}}},
    }
    async with start(replicas=1, speed=1.0, sidecar=sidecar) as running:
        prompt = "a long report of the night, word by word " * 8_000
        low = asyncio.create_task(
            running.post(running.chat(prompt, max_tokens=50), headers={"x-tenant-id": "low"})
        )

        async def computes() -> bool:
            [replica] = (await running.stack.status())["replicas"]
            return bool(replica["requests"] == 1)

        await until(computes)
        gold = await running.post(running.chat("hi"), headers={"x-tenant-id": "gold"})
        assert gold.status == 200
        refused = await low
        assert refused.status == 429
        assert json.loads(refused.body)["error"]["code"] == "preempted"
        assert int(refused.headers["retry-after"]) >= 1
        # Nothing of it is left, and its replica is as well as before.
        [replica] = (await running.stack.status())["replicas"]
        assert replica["state"] == "healthy"
