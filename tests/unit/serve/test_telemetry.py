"""Telemetry: pages are read whatever they hold, and many replicas are polled at a bounded pace."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.envoy.outliers import read_clusters
from weighbridge.process.loops import Loops
from weighbridge.serve.telemetry import Pace, Poller, last_record, read_iterations

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


def page(*records: Any) -> bytes:
    return json.dumps(records).encode()


@pytest.mark.parametrize(
    ("content", "look"),
    [
        (b"[]", {"requests": 0}),
        (b" [ ]\n", {"requests": 0}),
        (page({"numActiveRequests": 3, "numCompletedRequests": 1}), {"requests": 2}),
        (page({"numActiveRequests": 9}, {"numActiveRequests": 4, "x": {"y": {}}}), {"requests": 4}),
        (page({"note": "}{"}, {"numActiveRequests": 4, "note": '"} {'}), {"requests": 4}),
        (page({"numActiveRequests": -1}), None),
        (page({"numActiveRequests": True}), None),
        (page({"numActiveRequests": 1 << 70}), None),
        (page({"other": 1}), None),
        (page(1, 2), None),
        (b"", None),
        (b"not json", None),
        (b"}]", None),
        (b"{{}]", None),
        (b"\xff\xfe{}]", None),
    ],
)
def test_iterations(content: bytes, look: dict[str, int] | None) -> None:
    assert read_iterations(content) == look


RECORD = st.fixed_dictionaries(
    {"numActiveRequests": st.integers(0, 9), "kvCacheStats": st.just({"usedNumBlocks": 1})},
    optional={"note": st.text('{}[]"\\,: a', max_size=9)},
)


@given(st.lists(RECORD, min_size=1))
def test_the_last_record_is_the_lists_last(records: list[dict[str, Any]]) -> None:
    assert last_record(page(*records)) == records[-1]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_passed_over(content: bytes) -> None:
    read_iterations(content + b"]")


@given(JSON)
def test_any_json_is_no_trouble(content: Any) -> None:
    read_clusters({"cluster_statuses": [{"host_statuses": [content]}]})
    read_clusters(content)
    read_iterations(page(content))


async def test_a_thousand_replicas_are_polled_at_the_pace_that_is_set() -> None:
    pace = Pace(interval_seconds=0.001, polls_per_second=2000, max_concurrent=16)
    under_way = most = 0
    polled: dict[str, int] = {}

    async def poll(endpoint: str) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        polled[endpoint] = polled.get(endpoint, 0) + 1
        await asyncio.sleep(0.001)
        under_way -= 1

    endpoints = [f"10.0.{n // 250}.{n % 250}:8000" for n in range(1000)]
    poller = Poller("polls", poll, pace, Loops())
    before = len(asyncio.all_tasks())
    poller.follow(endpoints)
    async with asyncio.timeout(20):
        while len(polled) < len(endpoints):
            # However many there are, those that are not being asked are no tasks.
            assert len(asyncio.all_tasks()) - before <= 16 + 1
            await asyncio.sleep(0.01)
    await poller.close()
    assert len(asyncio.all_tasks()) == before
    assert most <= 16
    # All were asked before any was asked often.
    assert max(polled.values()) <= 6


async def test_who_leaves_is_asked_no_more_and_who_comes_back_is_asked_once_a_turn() -> None:
    asked: list[str] = []
    release = asyncio.Event()

    async def poll(endpoint: str) -> None:
        asked.append(endpoint)
        await release.wait()

    loops = Loops()
    poller = Poller("polls", poll, Pace(3600.0, 1e6, 16), loops)
    poller.follow(["a", "b"])
    async with asyncio.timeout(20):
        while len(asked) < 2:
            await asyncio.sleep(0)
    # Both are being asked; one leaves and comes back meanwhile, with a turn of its own.
    poller.follow(["b"])
    poller.follow(["a", "b"])
    async with asyncio.timeout(20):
        while len(asked) < 3:
            await asyncio.sleep(0)
    release.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert sorted(asked) == ["a", "a", "b"]
    assert loops.failures == {"polls": 0}
    await poller.close()


async def test_a_poll_that_breaks_is_counted_and_holds_no_room() -> None:
    asked = 0

    async def poll(_: str) -> None:
        nonlocal asked
        asked += 1
        raise RuntimeError("odd")

    loops = Loops()
    poller = Poller("polls", poll, Pace(0.001, 1e6, 2), loops)
    poller.follow(["a", "b", "c"])
    async with asyncio.timeout(20):
        while asked < 9:
            await asyncio.sleep(0.001)
    await poller.close()
    assert loops.failures["polls"] >= 9
