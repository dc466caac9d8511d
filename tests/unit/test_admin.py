"""The admin pages: what they answer, and to whom."""

import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from weighbridge._core import Core
from weighbridge.admin import AdminServer, is_loopback
from weighbridge.config import Config
from weighbridge.errors import RefusedError
from weighbridge.ports import LOOPBACK, find_free_run
from weighbridge.runtime import View
from weighbridge.status import snapshot

PROFILE = {
    "name": "p",
    "models": ["m"],
    "capacity_mu_per_min": 60000,
    "kv_tokens": 100000,
    "block_tokens": 32,
    "max_batch_size": 64,
    "max_num_tokens": 8192,
    "reference_batch": 32,
    "cost": {
        "prefill_per_tok": 0.01,
        "prefill_per_tok2_e6": 0.5,
        "decode_per_tok": 0.2,
        "decode_per_ktok_ctx": 0.02,
    },
}


class Pages:
    """A server of the pages, ready or not."""

    def __init__(self) -> None:
        self.ready = True
        self.address = f"{LOOPBACK}:{find_free_run(1)}"
        core = Core(json.dumps({"profiles": [PROFILE]}))
        core.set_replicas(json.dumps([{"endpoint": "10.0.0.1:80", "profile": "p"}]))
        self.server = AdminServer(
            core, lambda: self.ready, lambda: snapshot(core, Config(), View())
        )


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    pages = Pages()
    await pages.server.start(pages.address)
    yield pages
    await pages.server.stop()


async def get(pages: Pages, path: str) -> tuple[int, str]:
    url = f"http://{pages.address}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_health_is_life_and_readiness_is_readiness(pages: Pages) -> None:
    assert (await get(pages, "/healthz"))[0] == 200
    assert (await get(pages, "/readyz"))[0] == 200
    pages.ready = False
    assert (await get(pages, "/healthz"))[0] == 200
    assert (await get(pages, "/readyz"))[0] == 503


async def test_status_and_decisions_are_the_core_s(pages: Pages) -> None:
    status, text = await get(pages, "/status")
    assert status == 200
    assert json.loads(text)["replicas"][0]["endpoint"] == "10.0.0.1:80"
    assert await get(pages, "/decisions?after=0") == (200, "[]")
    for wrong in ("x", "-1", "1e3", "9" * 30, "%D9%A1"):
        assert (await get(pages, f"/decisions?after={wrong}"))[0] == 400


async def test_metrics_are_prometheus_text(pages: Pages) -> None:
    status, text = await get(pages, "/metrics")
    assert status == 200
    assert (
        'weighbridge_replica_requests_in_flight{domain="",model="m",replica="10.0.0.1:80"} 0.0'
        in text
    )


async def test_the_index_names_the_pages(pages: Pages) -> None:
    for page in ("/healthz", "/readyz", "/status", "/decisions", "/metrics"):
        assert page in (await get(pages, "/"))[1]


async def test_a_taken_port_is_one_line(pages: Pages) -> None:
    with pytest.raises(RefusedError, match=f"admin.address: cannot listen on {pages.address}"):
        await Pages().server.start(pages.address)
    with socket.socket() as probe:
        assert probe.connect_ex((LOOPBACK, int(pages.address.rpartition(":")[2]))) == 0


async def test_a_drain_is_told_who_asked_for_it_and_can_be_taken_back(pages: Pages) -> None:
    async def post(path: str) -> tuple[int, dict[str, Any]]:
        url = f"http://{pages.address}{path}"
        async with aiohttp.ClientSession() as session, session.post(url) as response:
            return response.status, await response.json()

    code, answer = await post("/drain?replica=10.0.0.1:80")
    assert (code, answer) == (200, {"endpoint": "10.0.0.1:80", "state": "draining", "requests": 0})
    assert json.loads((await get(pages, "/status"))[1])["replicas"][0]["state"] == "draining"
    assert (await post("/undrain?replica=10.0.0.1:80"))[1]["state"] == "healthy"
    assert await post("/drain?replica=10.0.0.9:80") == (
        404,
        {"error": "replica: there is no '10.0.0.9:80'"},
    )
    assert (await post("/drain"))[0] == 400
    assert (await get(pages, "/drain?replica=10.0.0.1:80"))[0] == 405


def test_only_this_machine_may_drain() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.7")
    assert not is_loopback(None)
