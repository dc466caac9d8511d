"""The sidecar's life: reload without dropping a stream, drain, and refusals to start."""

import asyncio
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.harness import Running, Starter, until

# What these look at has no part in the transport.
ONE_TRANSPORT = pytest.mark.parametrize("transport", ["native"], indirect=True)

LONG = {"x-emulate-output-tokens": "600"}


async def long_stream(running: Running) -> bytes:
    body = running.chat("a long story", stream=True, max_tokens=600)
    return (await running.post(body, headers=LONG)).body


async def in_flight(running: Running) -> bool:
    return bool((await running.stack.status())["streams"])


async def is_steered_to(running: Running, endpoints: set[str]) -> bool:
    replicas = (await running.stack.status())["replicas"]
    return {one["endpoint"] for one in replicas if one["state"] != "draining"} == endpoints


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
        # Sources are asked anew, which takes a moment.
        await until(lambda: is_steered_to(running, {one["endpoint"] for one in kept}))
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


@ONE_TRANSPORT
async def test_a_refused_file_is_seen_wherever_one_looks(running: Running) -> None:
    good = running.stack.config_file.read_text()
    assert (await page(running, "/readyz")) == (200, "ready\n")
    before = (await running.stack.status())["config"]
    assert before["refused"] is None
    running.stack.config_file.write_text("replicas: [{endpoint: nowhere}]\n")

    async def refused() -> bool:
        return (await running.stack.status())["config"]["refused"] is not None

    await until(refused)
    now = (await running.stack.status())["config"]
    assert "replicas[0].endpoint" in now["refused"]
    assert now["hash"] == before["hash"], "what is in force is what was"
    status, text = await page(running, "/readyz")
    assert status == 200
    assert "configuration file was refused" in text
    assert "nowhere" not in text, "it is open to all"
    _, metrics = await page(running, "/metrics")
    assert "weighbridge_config_reload_success 0.0" in metrics
    assert "weighbridge_config_reload_refusals_total 1.0" in metrics
    running.stack.config_file.write_text(good)

    async def in_force() -> bool:
        return not await refused()

    await until(in_force)
    _, metrics = await page(running, "/metrics")
    assert "weighbridge_config_reload_success 1.0" in metrics


@ONE_TRANSPORT
async def test_two_sections_that_change_at_once_leave_no_loop_broken(running: Running) -> None:
    content = running.stack.config_content()
    for turn in range(3):
        kept = content["replicas"][: 2 + turn]
        running.stack.write_config(
            content
            | {"replicas": kept}
            | {"health": {"interval_seconds": 0.1, "timeout_seconds": 0.5 + turn / 10}}
            | {"telemetry": {"interval_seconds": 0.1 + turn / 10}}
        )
        await until(partial(reloaded, running, turn + 1))
    # Polls of the settings that are in force still find out.
    gone = content["replicas"][1]["endpoint"]
    await running.fault(1, kind="crash")

    async def is_out() -> bool:
        states = {
            one["endpoint"]: one["state"] for one in (await running.stack.status())["replicas"]
        }
        return bool(states[gone] == "ejected")

    await until(is_out)
    assert set((await running.stack.status())["loops"].values()) == {0}
    assert "Session is closed" not in log_of(running)


@ONE_TRANSPORT
async def test_the_admin_token_is_followed(start: Starter, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first-token-of-many")
    async with start(settled=False, sidecar={"admin": {"token_file": "token"}}) as running:
        assert (await page(running, "/status", "first-token-of-many"))[0] == 200
        token.write_text("second-token-of-many")

        async def is_taken() -> bool:
            return (await page(running, "/status", "second-token-of-many"))[0] == 200

        await until(is_taken)
        assert (await page(running, "/status", "first-token-of-many"))[0] == 401
        token.write_text("short")
        await until(lambda: "admin access not reloaded" in log_of(running))
        assert (await page(running, "/status", "second-token-of-many"))[0] == 200


@ONE_TRANSPORT
async def test_thousands_of_replicas_in_one_file_hold_up_no_page(running: Running) -> None:
    content = running.stack.config_content()
    profile = content["replicas"][0]["profile"]
    more = [
        {
            "endpoint": f"127.{1 + n // 60000}.{n // 250 % 250}.{1 + n % 250}:22999",
            "profile": profile,
        }
        for n in range(2000)
    ]
    running.stack.write_config(content | {"replicas": [*content["replicas"], *more]})

    async def has(count: int) -> bool:
        # As a liveness probe asks: one that is not answered in time fails the test.
        assert (await page(running, "/healthz", seconds=5))[0] == 200
        return len((await running.stack.status())["replicas"]) == count

    await until(lambda: has(len(content["replicas"]) + len(more)), 60)
    assert (await running.post(running.chat())).status == 200
    running.stack.write_config(content)
    await until(lambda: has(len(content["replicas"])), 60)
    assert set((await running.stack.status())["loops"].values()) == {0}


def reloaded(running: Running, times: int) -> bool:
    return log_of(running).count(" reloaded ") == times


async def page(
    running: Running, path: str, token: str | None = None, seconds: float = 10
) -> tuple[int, str]:
    """One of the admin pages."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.get(f"{running.stack.admin_url}{path}") as answer,
    ):
        return answer.status, await answer.text()


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
