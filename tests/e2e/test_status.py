"""`weighbridge status` before a real Envoy: both views in one, and what contradicts."""

import asyncio
import json
from typing import Any

import pytest

from tests.e2e.harness import Running, Starter, until
from weighbridge.config.listen import Transport
from weighbridge.lab.stack import weighbridge


@pytest.fixture
def transport() -> Transport:
    """One of them: what is joined is the same."""
    return "native"


async def status(running: Running) -> tuple[int, dict[str, Any]]:
    command = weighbridge("status", "--config", str(running.stack.config_file), "--json", "-")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert not err, err
    return process.returncode or 0, json.loads(out)


async def test_both_views_are_joined_and_contradictions_named(start: Starter) -> None:
    async with start(replicas=3) as running:
        for _ in range(3):
            assert (await running.post(running.chat())).status == 200
        await running.settled()
        code, found = await status(running)
        assert found["contradictions"] == []
        assert code == 0
        assert found["envoy"]["cluster"] == "replicas"
        assert {host["address"] for host in found["envoy"]["hosts"]} == set(running.stack.endpoints)
        assert found["envoy"]["ext_proc"]["streams_started"] >= 3
        assert found["sidecar"]["reasons"]

        # One fewer in the sidecar's list than in Envoy's.
        content = running.stack.config_content()
        gone = content["replicas"].pop()["endpoint"]
        running.stack.config_file.write_text(json.dumps(content), encoding="utf-8")

        async def reloaded() -> bool:
            return len((await running.stack.status())["replicas"]) == 2

        await until(reloaded)
        code, found = await status(running)
        assert code == 1
        wrong = [(one["code"], one["subject"]) for one in found["contradictions"]]
        assert wrong == [("replica_unknown_to_sidecar", gone)]


async def test_an_envoy_that_does_not_answer_is_a_contradiction(start: Starter) -> None:
    async with start(replicas=2) as running:
        await running.family.running("envoy").stop(5)
        code, found = await status(running)
        assert code == 1
        assert [one["code"] for one in found["contradictions"]] == ["envoy_unreachable"]
        assert found["envoy"] is None
