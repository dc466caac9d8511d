"""Loops: one that breaks goes on, is told of, and ends when it is told to."""

import asyncio

import pytest

from weighbridge.process.loops import Loops


async def test_a_loop_that_breaks_is_logged_counted_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loops = Loops(pause_seconds=0.001)
    begun, went_on = 0, asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun <= 3:
            raise ValueError(f"the {begun}. time")
        went_on.set()
        await asyncio.Event().wait()

    task = loops.start("assigner", work)
    async with asyncio.timeout(5):
        await went_on.wait()
    assert loops.failures == {"assigner": 3}
    assert "assigner broke, and goes on" in caplog.text
    assert "ValueError: the 2. time" in caplog.text, "with its trace"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert loops.failures == {"assigner": 3}, "being told to end is no failure"


async def test_a_loop_that_ends_by_itself_is_not_begun_again() -> None:
    loops, begun = Loops(pause_seconds=0.001), 0

    async def work() -> None:
        nonlocal begun
        begun += 1

    async with asyncio.timeout(5):
        await loops.start("drift", work)
    assert begun == 1
    assert loops.failures == {"drift": 0}
