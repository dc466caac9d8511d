"""Health: only an unbroken row of probes changes a state; changes are told once."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.config import Health
from weighbridge.health import HealthWatch, Verdict

THRESHOLD = st.integers(1, 5)


@given(st.lists(st.booleans()), THRESHOLD, THRESHOLD)
def test_a_state_changes_after_exactly_its_row_of_probes(
    probes: list[bool], failures: int, successes: int
) -> None:
    verdict = Verdict()
    row: list[bool] = []
    for healthy in probes:
        before = verdict.state
        verdict = verdict.after(healthy, failures, successes)
        row = [*row, healthy] if row and row[-1] == healthy else [healthy]
        if verdict.state != before:
            assert len(row) >= (successes if healthy else failures)
        if len(row) >= max(failures, successes):
            assert verdict.state == ("healthy" if healthy else "ejected")


class Page:
    """A health page that can be told to fail."""

    def __init__(self) -> None:
        self.status = 200
        self.endpoint = ""

    async def answer(self, _: web.Request) -> web.Response:
        return web.Response(status=self.status)


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    page = Page()
    application = web.Application()
    application.router.add_get("/health", page.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    page.endpoint = f"{host}:{port}"
    yield page
    await runner.cleanup()


async def test_a_failing_replica_is_ejected_and_comes_back(page: Page) -> None:
    changed = asyncio.Event()
    settings = Health(interval_seconds=0.01, failures=2)
    watch = HealthWatch(settings, changed.set)
    try:
        await watch.watch([page.endpoint], settings)
        assert watch.states() == {page.endpoint: "healthy"}
        page.status = 503
        await changed.wait()
        assert watch.states() == {page.endpoint: "ejected"}
        changed.clear()
        page.status = 200
        await changed.wait()
        assert watch.states() == {page.endpoint: "healthy"}
    finally:
        await watch.close()


async def test_a_replica_that_is_gone_from_the_list_is_forgotten(page: Page) -> None:
    settings = Health(interval_seconds=0.01)
    watch = HealthWatch(settings, lambda: None)
    try:
        await watch.watch([page.endpoint], settings)
        await watch.watch([], settings)
        assert watch.states() == {}
        await watch.watch([page.endpoint], Health(enabled=False))
        assert watch.states() == {}
    finally:
        await watch.close()
