"""The rendered configuration on each Envoy that is claimed: loaded, and driven."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.harness import Running, until, usage_lines, usage_of
from tests.manifests.test_fragments import WHOLE
from tests.mesh.planes import PLANES, ROOT
from weighbridge.envoy import binary
from weighbridge.lab.processes import Family
from weighbridge.lab.stack import Stack, StackOptions

VERSIONS = ("1.36.4", "1.37.0", "1.38.3", "1.39.3", "1.40.0")


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_envoy_is_driven(tmp_path: Path, version: str) -> None:
    envoy = PLANES / "envoy" / version / "envoy" / "_bin" / "envoy"
    for file in WHOLE:
        binary.validate(envoy, ROOT / "envoy" / file)
    log = tmp_path / "usage.jsonl"
    options = StackOptions(
        replicas=4, speed=50.0, envoy=envoy, sidecar={"usage_log": {"path": str(log)}}
    )
    async with Family(tmp_path) as family:
        stack = Stack(options, tmp_path, family)
        await stack.start()
        async with aiohttp.ClientSession(stack.url) as client:
            running = Running(stack, family, client)
            told = Counter[str]()
            for first in range(0, 48, 8):
                bodies = [body(running, n) for n in range(first, first + 8)]
                replies = await asyncio.gather(*map(running.post, bodies))
                for reply in replies:
                    assert reply.status == 200, reply.body
                    assert (await running.decision_of(reply))["replica"] == reply.replica
                    prompt, output = usage_of(reply.body)
                    told += Counter(prompt=prompt, output=output)
            await until(lambda: len(usage_lines(log)) == 48)
            billed = Counter[str]()
            for line in usage_lines(log):
                billed += Counter(prompt=line["prompt_tokens"], output=line["output_tokens"])
            assert billed == told
            # A replica is lost, then the sidecar: neither costs a request.
            await running.fault(0, kind="crash")
            for n in range(12):
                assert (await running.post(running.chat(f"on {n}"))).status == 200
            family.running("serve").kill()
            for n in range(12):
                assert (await running.post(running.chat(f"without {n}"))).status == 200


def body(running: Running, n: int) -> dict[str, Any]:
    """A chat, streamed or not."""
    options = {"stream": True, "stream_options": {"include_usage": True}} if n % 2 else {}
    return running.chat(f"question {n} " * 20, max_tokens=20 + n, ignore_eos=True, **options)
