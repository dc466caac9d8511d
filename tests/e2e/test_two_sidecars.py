"""Two sidecars behind one Envoy: replies reach the one that decided."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.e2e.harness import Running, until, usage_lines, usage_of
from weighbridge.envoy import binary
from weighbridge.envoy.bootstrap import render
from weighbridge.envoy.names import SIDECAR_CLUSTER
from weighbridge.lab.ports import LOOPBACK, find_free_run
from weighbridge.lab.processes import Family
from weighbridge.lab.stack import Stack, StackOptions, answers, fetch, weighbridge

REQUESTS = 64
TOGETHER = 8


@pytest.mark.parametrize("one_is_gone", [False, True])
async def test_each_reply_is_billed_by_the_sidecar_that_decided(
    tmp_path: Path, one_is_gone: bool
) -> None:
    logs = [tmp_path / f"usage-{n}.jsonl" for n in range(2)]
    options = StackOptions(
        replicas=4,
        speed=50.0,
        sidecar={"usage_log": {"path": str(logs[0])}},
    )
    async with Family(tmp_path) as family:
        stack = Stack(options, tmp_path, family)
        await stack.start_emulator()
        await stack.start_sidecar()
        second = find_free_run(2, stack.ports.replicas[-1] + 1)
        content = stack.config_content() | {"usage_log": {"path": str(logs[1])}}
        content["listen"]["address"] = f"{LOOPBACK}:{second}"
        content["admin"]["address"] = f"{LOOPBACK}:{second + 1}"
        file = tmp_path / "second.yaml"
        file.write_text(yaml.safe_dump(content))
        await family.start("second", weighbridge("serve", "--config", str(file)))
        await answers(f"http://{LOOPBACK}:{second + 1}/readyz")
        envoy = tmp_path / "two.json"
        envoy.write_text(json.dumps(with_another(stack, second)))
        await family.start("envoy", binary.command(stack.envoy_binary, envoy, 2))
        await stack.ready(f"{stack.envoy_admin_url}/ready")
        async with aiohttp.ClientSession(
            stack.url, timeout=aiohttp.ClientTimeout(total=60)
        ) as client:
            running = Running(stack, family, client)
            if one_is_gone:
                family.running("second").kill()
                await until(lambda: has_left(stack))
            told = await drive(running)
        await until(lambda: sum(len(usage_lines(log)) for log in logs) >= REQUESTS)
        pages = [await fetch(f"{stack.admin_url}/status")]
        if not one_is_gone:
            pages.append(await fetch(f"http://{LOOPBACK}:{second + 1}/status"))
        assert [one["requests"] for page in pages for one in page["replicas"]] == [0] * (
            4 * len(pages)
        )
    lines = [usage_lines(log) for log in logs]
    assert all(lines) != one_is_gone
    billed = Counter[str]()
    for line in (line for log in lines for line in log):
        assert line["source"] == "usage"
        billed += Counter(prompt=line["prompt_tokens"], output=line["output_tokens"])
    assert billed == told


async def has_left(stack: Stack) -> bool:
    """Whether Envoy's health check has seen that one sidecar is gone."""
    name = f"cluster.{SIDECAR_CLUSTER}.membership_healthy"
    page = await fetch(f"{stack.envoy_admin_url}/stats?format=json&filter={name}")
    return bool(page["stats"][0]["value"] == 1)


def with_another(stack: Stack, port: int) -> dict[str, Any]:
    """The rendered Envoy, with a second host in the sidecar's cluster."""
    tree: dict[str, Any] = yaml.safe_load(render(stack.config))
    clusters = tree["static_resources"]["clusters"]
    [sidecar] = [one for one in clusters if one["name"] == SIDECAR_CLUSTER]
    where = {"address": LOOPBACK, "port_value": port}
    host = {"endpoint": {"address": {"socket_address": where}}}
    sidecar["load_assignment"]["endpoints"][0]["lb_endpoints"].append(host)
    return tree


async def drive(running: Running) -> Counter[str]:
    """What the replies say that they took, streamed or not."""
    told = Counter[str]()
    bodies = [
        running.chat(
            f"question {n} " * 20,
            max_tokens=20 + n,
            ignore_eos=True,
            **({"stream": True, "stream_options": {"include_usage": True}} if n % 2 else {}),
        )
        for n in range(REQUESTS)
    ]
    replies = []
    for first in range(0, REQUESTS, TOGETHER):
        some = bodies[first : first + TOGETHER]
        replies += await asyncio.gather(*map(running.post, some))
    assert {reply.status for reply in replies} == {200}
    for reply in replies:
        prompt, output = usage_of(reply.body)
        told += Counter(prompt=prompt, output=output)
    return told
