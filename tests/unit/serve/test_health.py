"""Health: what polls and Envoy see reaches the core; what the core judges reaches the log."""

import asyncio
import errno
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from weighbridge.config.health import Health, Telemetry
from weighbridge.process.loops import Loops
from weighbridge.serve.health import HealthWatch

QUIET = Telemetry(enabled=False)


class Page:
    """A replica's pages, and Envoy's: they say what they are told to."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = asyncio.Event()
        self.delay_seconds = 0.0
        self.odd: bytes | None = None
        self.iterations: list[dict[str, Any]] = []
        self.clusters: dict[str, Any] | None = {}
        self.endpoint = ""

    async def health(self, _: web.Request) -> web.Response:
        self.asked.set()
        await asyncio.sleep(self.delay_seconds)
        return web.Response(status=self.status)

    async def metrics(self, _: web.Request) -> web.Response:
        if self.odd is not None:
            return web.Response(body=self.odd)
        return web.json_response(self.iterations)

    async def envoy(self, _: web.Request) -> web.Response:
        return web.json_response(self.clusters, status=200 if self.clusters is not None else 500)

    def outlier(self, is_out: bool) -> None:
        host, _, port = self.endpoint.rpartition(":")
        socket = {"address": host, "port_value": int(port)}
        status = {
            "address": {"socket_address": socket},
            "health_status": {"failed_outlier_check": is_out, "eds_health_status": "HEALTHY"},
        }
        self.clusters = {"cluster_statuses": [{"name": "x", "host_statuses": [status]}]}


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    page = Page()
    application = web.Application()
    application.router.add_get("/health", page.health)
    application.router.add_get("/metrics", page.metrics)
    application.router.add_get("/clusters", page.envoy)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    page.endpoint = f"{host}:{port}"
    yield page
    await runner.cleanup()


class Ear:
    """In the core's place: keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.news = asyncio.Event()
        self.changes: list[dict[str, Any]] = []

    def hear(self, observations_json: str) -> None:
        self.heard += json.loads(observations_json)
        self.news.set()

    def judge(self) -> str:
        changes, self.changes = self.changes, []
        return json.dumps(changes)

    async def hears(self, **wanted: Any) -> None:
        """Waits for an observation that says this."""
        async with asyncio.timeout(5):
            while not any(wanted.items() <= seen.items() for seen in self.heard):
                self.news.clear()
                await self.news.wait()
        self.heard.clear()


@pytest.fixture
async def ear() -> Ear:
    return Ear()


@pytest.fixture
async def watch(ear: Ear) -> AsyncIterator[HealthWatch]:
    watch = HealthWatch(ear)
    yield watch
    await watch.close()


async def test_polls_reach_the_core(page: Page, ear: Ear, watch: HealthWatch) -> None:
    health = Health(interval_seconds=0.01)
    await watch.watch([page.endpoint], health, QUIET)
    await ear.hears(endpoint=page.endpoint, probe="good")
    page.status = 503
    await ear.hears(endpoint=page.endpoint, probe="bad")
    # Nobody listens on port 1.
    await watch.watch(["127.0.0.1:1"], health, QUIET)
    await ear.hears(endpoint="127.0.0.1:1", probe="refused")
    await ear.hears(endpoint="127.0.0.1:1", probe="refused")
    assert all(seen["endpoint"] == "127.0.0.1:1" for seen in ear.heard)


async def test_the_engines_latest_iteration_reaches_the_core(
    page: Page, ear: Ear, watch: HealthWatch
) -> None:
    telemetry = Telemetry(interval_seconds=0.01)
    await watch.watch([page.endpoint], Health(enabled=False), telemetry)
    await ear.hears(endpoint=page.endpoint, engine={"requests": 0})
    cache = {"usedNumBlocks": 10, "tokensPerBlock": 32}
    page.iterations = [
        {"iter": n, "numActiveRequests": n, "numQueuedRequests": 2, "kvCacheStats": cache}
        for n in range(1000)
    ]
    expected = {"requests": 1001, "kv_tokens": 320, "iteration": 999}
    await ear.hears(endpoint=page.endpoint, engine=expected)
    assert all("probe" not in seen for seen in ear.heard)


async def test_envoys_view_reaches_the_core_and_its_silence_clears_it(
    page: Page, ear: Ear, watch: HealthWatch
) -> None:
    page.outlier(True)
    health = Health(interval_seconds=0.01, envoy_admin=page.endpoint)
    await watch.watch([page.endpoint], health, QUIET)
    await ear.hears(endpoint=page.endpoint, outlier=True)
    page.outlier(False)
    await ear.hears(endpoint=page.endpoint, outlier=False)
    page.outlier(True)
    await ear.hears(endpoint=page.endpoint, outlier=True)
    page.clusters = None
    await ear.hears(endpoint=page.endpoint, outlier=False)


async def test_each_change_of_state_is_logged_once(
    ear: Ear, watch: HealthWatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ear.changes = [
        {"endpoint": "e", "from": "healthy", "to": "degraded", "cause": "slow", "share": 0.75}
    ]
    await watch.watch([], Health(round_seconds=0.01), QUIET)
    await asyncio.sleep(0.1)
    lines = [record.getMessage() for record in caplog.records if "replica" in record.getMessage()]
    assert lines == ["replica e is degraded (was healthy): slow, share 0.75"]


async def test_what_breaks_is_counted_and_goes_on(page: Page, ear: Ear) -> None:
    loops, hear, judge = Loops(pause_seconds=0.01), ear.hear, ear.judge
    broken = {"hear": 2, "judge": 2}
    judged = asyncio.Event()

    def breaks(what: str) -> None:
        broken[what] -= 1
        if broken[what] >= 0:
            raise RuntimeError(what)

    def hear_at_last(observations_json: str) -> None:
        breaks("hear")
        hear(observations_json)

    def judge_at_last() -> str:
        breaks("judge")
        judged.set()
        return judge()

    ear.hear, ear.judge = hear_at_last, judge_at_last  # type: ignore[method-assign]
    watch = HealthWatch(ear, loops)
    await watch.watch([page.endpoint], Health(interval_seconds=0.01, round_seconds=0.05), QUIET)
    await ear.hears(endpoint=page.endpoint, probe="good")
    async with asyncio.timeout(5):
        await judged.wait()
    await watch.close()
    assert loops.failures == {"health_polls": 0, "hearing": 2, "health": 2}


async def test_two_changes_at_once_leave_one_watch_that_works(page: Page, ear: Ear) -> None:
    loops = Loops(pause_seconds=0.01)
    watch = HealthWatch(ear, loops)
    await watch.watch([page.endpoint], Health(interval_seconds=0.01), QUIET)
    await ear.hears(endpoint=page.endpoint, probe="good")
    for seconds in (0.5, 0.6, 0.7):
        health = Health(interval_seconds=0.01, timeout_seconds=seconds)
        await asyncio.gather(*(watch.watch([page.endpoint], health, QUIET) for _ in range(3)))
    page.status = 503
    await ear.hears(endpoint=page.endpoint, probe="bad")
    await asyncio.sleep(0.05)
    await watch.close()
    assert set(loops.failures.values()) == {0}, loops.failures


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS, errno.ENETUNREACH])
async def test_what_fails_here_says_nothing_of_a_replica(
    page: Page, ear: Ear, watch: HealthWatch, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    made = socket.socket

    def none_left(*_: Any, **__: Any) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", none_left)
    await watch.watch([page.endpoint], Health(interval_seconds=0.01), QUIET)
    async with asyncio.timeout(5):
        while watch.skipped["unsent"] < 3:
            await asyncio.sleep(0.01)
    assert ear.heard == []
    monkeypatch.setattr(socket, "socket", made)
    await ear.hears(endpoint=page.endpoint, probe="good")


async def test_a_process_that_stood_still_blames_nobody(
    page: Page, ear: Ear, watch: HealthWatch
) -> None:
    page.delay_seconds = 0.05
    await watch.watch([page.endpoint], Health(interval_seconds=0.01, timeout_seconds=0.2), QUIET)
    await ear.hears(endpoint=page.endpoint, probe="good")
    page.asked.clear()
    async with asyncio.timeout(5):
        await page.asked.wait()
        # The loop is held up while a poll is under way: its time is up when it goes on.
        time.sleep(0.5)  # noqa: ASYNC251
        while not watch.skipped["unsent"]:
            await asyncio.sleep(0.01)
    assert all(seen["probe"] == "good" for seen in ear.heard)


@pytest.mark.parametrize(
    "content",
    [
        b'[{"a":' * 5000 + b"1" + b"}]" * 5000,
        b"[" * 70_000 + b"]" * 70_000,
        b"# HELP vllm:num_requests_running\nvllm:num_requests_running 3.0\n",
        b"[" + b"1," * (5 << 20) + b"1]",
        b'[{"numActiveRequests": ' + b"9" * 5000 + b"}]",
        b"\x1f\x8b\x08\x00 no gzip",
    ],
)
async def test_an_odd_page_is_passed_over_and_counted(page: Page, ear: Ear, content: bytes) -> None:
    loops = Loops(pause_seconds=0.01)
    watch = HealthWatch(ear, loops)
    page.odd = content
    telemetry = Telemetry(interval_seconds=0.01)
    await watch.watch([page.endpoint], Health(enabled=False), telemetry)
    async with asyncio.timeout(10):
        while watch.skipped["unreadable"] < 2:
            await asyncio.sleep(0.01)
    assert ear.heard == []
    page.odd = None
    await ear.hears(endpoint=page.endpoint, engine={"requests": 0})
    await watch.close()
    assert loops.failures["telemetry_polls"] == 0
