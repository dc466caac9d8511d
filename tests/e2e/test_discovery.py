"""One list for Envoy and the sidecar: what is added and removed under load loses nothing."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Reply, Running, Starter, until
from weighbridge.lab.ports import LOOPBACK, find_free_run
from weighbridge.lab.stack import DEFAULT_PROFILE, fetch

REPLICAS = 5
# What these look at has no part in the transport.
ONE_TRANSPORT = pytest.mark.parametrize("transport", ["native"], indirect=True)


class List:
    """The file that both are told by."""

    def __init__(self, path: Path, base_port: int) -> None:
        self.path = path
        self.endpoints = [f"{LOOPBACK}:{base_port + index}" for index in range(REPLICAS)]
        self.ads_port = base_port + REPLICAS

    def write(self, members: Sequence[int]) -> list[str]:
        """Lists these replicas and no others."""
        named = [self.endpoints[index] for index in members]
        replicas = [
            {"endpoint": endpoint, "profile": DEFAULT_PROFILE, "domain": f"rack-{index % 2}"}
            for index, endpoint in zip(members, named, strict=True)
        ]
        # Written beside it and moved there, as a careful operator does.
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps({"replicas": replicas}))
        beside.replace(self.path)
        return named


def free_ports() -> int:
    """The first of the replicas' ports, with one after them, beside those of the stack itself."""
    return find_free_run(REPLICAS + 1, find_free_run(5) + 5)


def settings(listed: List, **more: Any) -> dict[str, Any]:
    """No replica in the configuration; all come from the file."""
    return {
        "replicas": [],
        "decision_log": 1 << 16,
        "discovery": {
            "sources": [{"kind": "file", "path": str(listed.path), "interval_seconds": 0.1}],
            "warm_up_seconds": 1,
            "ads": {"address": f"{LOOPBACK}:{listed.ads_port}"},
        }
        | more,
    }


async def in_envoy(running: Running) -> dict[str, str]:
    """Replicas that Envoy has, with their zones."""
    page = await fetch(f"{running.stack.envoy_admin_url}/clusters?format=json")
    hosts = [
        host
        for cluster in page["cluster_statuses"]
        if cluster["name"] == "replicas"
        for host in cluster.get("host_statuses", ())
    ]
    sockets = [(host["address"]["socket_address"], host) for host in hosts]
    return {
        f"{socket['address']}:{socket['port_value']}": host["locality"].get("zone", "")
        for socket, host in sockets
    }


async def in_sidecar(running: Running) -> dict[str, str]:
    """Replicas that the sidecar has, with their domains."""
    status = await running.stack.status()
    return {one["endpoint"]: one["domain"] for one in status["replicas"]}


async def both_have(running: Running, wanted: Sequence[str]) -> None:
    async def they_have() -> bool:
        envoy, sidecar = await in_envoy(running), await in_sidecar(running)
        return set(envoy) == set(sidecar) == set(wanted) and envoy == sidecar

    await until(they_have)


async def more(replies: list[Reply], count: int) -> None:
    """Waits until so many more have come."""
    enough = len(replies) + count
    await until(lambda: len(replies) >= enough)


async def test_additions_and_removals_under_load_lose_nothing(
    start: Starter, tmp_path: Path
) -> None:
    base = free_ports()
    listed = List(tmp_path / "replicas.json", base)
    wanted = listed.write([0, 1])
    async with start(
        replicas=REPLICAS, base_port=base, speed=20.0, sidecar=settings(listed)
    ) as running:
        for endpoint in listed.endpoints:
            await running.stack.ready(f"http://{endpoint}/health")
        await both_have(running, wanted)
        stop = asyncio.Event()
        replies: list[Reply] = []

        async def load(worker: int) -> None:
            number = 0
            while not stop.is_set():
                body = running.chat(f"worker {worker} asks {number}", stream=number % 2 == 0)
                replies.append(await running.post(body, {"x-emulate-output-tokens": "40"}))
                number += 1

        async with asyncio.TaskGroup() as group:
            for worker in range(12):
                group.create_task(load(worker))
            for members in ([0, 1, 2, 3], [2, 3], [0, 3, 4], [4], [0, 1, 2, 3, 4]):
                wanted = listed.write(members)
                await both_have(running, wanted)
                await more(replies, 20)
            stop.set()

        assert {reply.status for reply in replies} == {200}
        decided = {one["request_id"]: one for one in await running.stack.decisions()}
        # Nobody was steered to a replica that Envoy did not know yet, or no more.
        astray = [
            reply
            for reply in replies
            if decided[reply.headers["x-request-id"]]["replica"] != reply.replica
        ]
        assert not astray, f"{len(astray)} of {len(replies)} went astray"
        assert {reply.replica for reply in replies} == set(listed.endpoints)


@ONE_TRANSPORT
async def test_a_bad_list_changes_nothing_and_is_said(start: Starter, tmp_path: Path) -> None:
    base = free_ports()
    listed = List(tmp_path / "replicas.json", base)
    wanted = listed.write([0, 1])
    more = {"retry_seconds": 0.2}
    async with start(
        replicas=REPLICAS, base_port=base, sidecar=settings(listed, **more)
    ) as running:
        await both_have(running, wanted)
        listed.path.write_text('{"replicas": [{"endpoint": "engine:8000", "profile": "p"}]}')

        async def source() -> dict[str, Any]:
            status = await running.stack.status()
            found: dict[str, Any] = status["discovery"]["sources"][1]
            return found

        async def is_said() -> bool:
            return (await source())["error"] is not None

        await until(is_said)
        error = (await source())["error"]
        assert f"{listed.path}: replicas[0].endpoint:" in error
        assert (await running.post(running.chat())).status == 200
        await both_have(running, wanted)
        metrics = await text(f"{running.stack.admin_url}/metrics")
        assert 'weighbridge_discovery_up{source="file ' in metrics

        wanted = listed.write([1, 2])
        await both_have(running, wanted)
        assert (await source())["error"] is None


@ONE_TRANSPORT
async def test_envoy_keeps_its_list_while_the_sidecar_is_away(
    start: Starter, tmp_path: Path
) -> None:
    base = free_ports()
    listed = List(tmp_path / "replicas.json", base)
    wanted = listed.write([0, 1])
    async with start(replicas=REPLICAS, base_port=base, sidecar=settings(listed)) as running:
        await both_have(running, wanted)
        await running.family.running("serve").stop(5)
        replies = [await running.post(running.chat(f"alone {n}")) for n in range(6)]
        assert {reply.status for reply in replies} == {200}
        wanted = listed.write([1, 2, 3])
        await running.stack.start_sidecar()
        await both_have(running, wanted)


async def text(url: str) -> str:
    """A page's text."""
    import aiohttp

    async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(url) as page:
        return await page.text()
