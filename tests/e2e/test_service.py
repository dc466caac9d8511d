"""The sidecar's life: reload without dropping a stream, drain, and refusals to start."""

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

from tests.e2e.harness import Running, Starter, until

LONG = {"x-emulate-output-tokens": "600"}


async def long_stream(running: Running) -> bytes:
    body = running.chat("a long story", stream=True, max_tokens=600)
    return (await running.post(body, headers=LONG)).body


async def in_flight(running: Running) -> bool:
    return bool((await running.stack.status())["streams"])


def log_of(running: Running) -> str:
    return running.family.running("serve").log.read_text()


async def test_a_changed_file_is_taken_over_without_dropping_a_stream(start: Starter) -> None:
    async with start(speed=4.0) as running:
        streaming = asyncio.create_task(long_stream(running))
        await until(lambda: in_flight(running))
        content = running.stack.config_content()
        kept = content["replicas"][:2]
        running.stack.write_config(content | {"replicas": kept})
        await until(lambda: "reloaded" in log_of(running))
        replies = [await running.post(running.chat(f"topic {n}")) for n in range(12)]
        assert {reply.replica for reply in replies} <= {one["endpoint"] for one in kept}
        assert (await streaming).rstrip().endswith(b"data: [DONE]")


async def test_a_bad_file_is_refused_in_one_line_and_the_old_stays(running: Running) -> None:
    good = running.stack.config_file.read_text()
    running.stack.config_file.write_text("replicas: [{endpoint: nowhere}]\n")
    running.family.running("serve").signal(signal.SIGHUP)
    await until(lambda: "not reloaded" in log_of(running))
    lines = [line for line in log_of(running).splitlines() if "not reloaded" in line]
    assert re.search(
        r"error not reloaded: \S+weighbridge\.yaml: replicas\[0\]\.endpoint: ", lines[0]
    )
    assert (await running.post(running.chat())).status == 200
    running.stack.config_file.write_text(good)


async def test_what_needs_a_restart_is_said(running: Running) -> None:
    content: dict[str, Any] = running.stack.config_content()
    running.stack.write_config(content | {"tenant_header": "x-other"})
    running.family.running("serve").signal(signal.SIGHUP)
    await until(lambda: "tenant_header: needs a restart to change" in log_of(running))
    assert (await running.post(running.chat())).status == 200


async def test_sigterm_lets_open_streams_end(start: Starter) -> None:
    async with start(settled=False, speed=4.0) as running:
        streaming = asyncio.create_task(long_stream(running))
        await until(lambda: in_flight(running))
        serve = running.family.running("serve")
        serve.signal(signal.SIGTERM)
        # What comes meanwhile is served as well: Envoy goes on alone.
        assert (await running.post(running.chat())).status == 200
        assert (await streaming).rstrip().endswith(b"data: [DONE]")
        assert await serve.wait() == 0
        assert serve.last_words().endswith("info stopped")


async def test_a_taken_port_is_one_line_and_an_exit_code(running: Running, tmp_path: Path) -> None:
    second = await running.family.start("second", running.stack.serve_command())
    assert await second.wait() == 1
    assert second.log.read_text().count("\n") == 1
    address = running.stack.config.admin.address
    assert f"admin.address: cannot listen on {address}" in second.last_words()
