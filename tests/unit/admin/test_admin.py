"""The admin pages: what they answer, and to whom."""

import asyncio
import base64
import gzip
import hashlib
import json
import re
import socket
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import aiohttp
import pytest

from tests.unit.admin.test_explain import open_stream
from weighbridge._core import Core
from weighbridge.admin import console as console_pages
from weighbridge.admin.console import MOST_VIEWERS
from weighbridge.admin.explain import Asked
from weighbridge.admin.server import EXPLAINED_AT_ONCE, AdminServer, is_loopback
from weighbridge.admin.status import snapshot
from weighbridge.config.file import Config
from weighbridge.envoy.runtime import View
from weighbridge.errors import RefusedError
from weighbridge.lab.ports import LOOPBACK, find_free_run
from weighbridge.net import outside

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

    def __init__(self, core: Core | None = None) -> None:
        self.ready = True
        self.address = f"{LOOPBACK}:{find_free_run(1)}"
        if core is None:
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


@pytest.mark.parametrize(
    "scan",
    [
        b"GET /\x80 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nno header\r\n\r\n",
        b"GET /%s HTTP/1.1\r\n\r\n" % (b"a" * 10_000),
    ],
    ids=["path", "hosts", "header", "long"],
)
async def test_what_is_no_http_is_answered_and_fills_no_log(
    pages: Pages, caplog: pytest.LogCaptureFixture, scan: bytes
) -> None:
    host, _, port = pages.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(scan)
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    assert not caplog.records


async def test_metrics_are_prometheus_text(pages: Pages) -> None:
    status, text = await get(pages, "/metrics")
    assert status == 200
    assert (
        'weighbridge_replica_requests_in_flight{domain="",model="m",replica="10.0.0.1:80"} 0.0'
        in text
    )


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("", False),
    ],
)
async def test_metrics_are_packed_where_that_is_accepted(
    pages: Pages, accepted: str, packed: bool
) -> None:
    url = f"http://{pages.address}/metrics"
    headers = {"accept-encoding": accepted}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(url, headers=headers) as response,
    ):
        content = await response.read()
        assert response.headers.get("content-encoding") == ("gzip" if packed else None)
        assert response.headers["vary"] == "accept-encoding"
    text = gzip.decompress(content) if packed else content
    assert b"weighbridge_build_info" in text


async def test_the_index_links_to_pages_that_are_there(pages: Pages) -> None:
    text = (await get(pages, "/"))[1]
    links = re.findall(r'href="([^"]+)"', text)
    assert {"/console", "/status", "/decisions", "/slices", "/metrics"} <= set(links)
    for link in links:
        assert (await get(pages, link))[0] == 200
    for page in ("/drain", "/undrain", "/explain", "/whatif"):
        assert page in text


async def test_decisions_are_paged_and_bounded() -> None:
    core = Core(json.dumps({"profiles": [PROFILE], "decision_log": 3000}))
    core.set_replicas(json.dumps([{"endpoint": "10.0.0.1:80", "profile": "p"}]))
    for number in range(1100):
        decide(core, f"s{number}")
    pages = Pages(core)
    await pages.server.start(pages.address)
    try:

        async def numbers(query: str) -> list[int]:
            found = json.loads((await get(pages, f"/decisions{query}"))[1])
            return [one["number"] for one in found]

        assert await numbers("") == list(range(1, 1025))
        assert await numbers("?after=1024") == list(range(1025, 1101))
        assert await numbers("?latest=3") == [1098, 1099, 1100]
        assert len(await numbers("?latest=999999")) == 1024
        assert (await get(pages, "/decisions?latest=x"))[0] == 400
    finally:
        await pages.server.stop()


def decide(core: Core, session: str) -> None:
    """One request, from beginning to end."""
    open_stream(
        core,
        Asked("/v1/completions", (("x-session-id", session),), b'{"model":"m","prompt":"a"}'),
    ).close()


async def post(pages: Pages, path: str, content: bytes, kind: str = "application/json") -> int:
    """The status of an answer to a POST; every error is JSON that says what is wrong."""
    url = f"http://{pages.address}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=BytesIO(content), headers={"content-type": kind}) as response,
    ):
        assert (await response.json())["error"]
        return response.status


# None of them is JSON that a page could want.
STRANGE = {
    "no utf-8": b'{"model": "\xff\xfe", "messages": []}',
    "deep": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep and open": b"[" * 100_000,
    "half a pair": b'{"model": "\\ud800", "messages": [], "replicas": 2}',
    "half a pair in a header": b'{"headers": {"x": "\\udc00"}, "body": {}}',
    "half a pair in the path": b'{"path": "/\\ud800", "body": {}}',
    "a long number": b'{"replicas": ' + b"9" * 5000 + b"}",
    "infinite": b'{"model": "m", "replicas": 2, "rate_factor": 1e999}',
    "nothing": b"",
    "a nul": b"\x00",
    "utf-16": '{"model": "m"}'.encode("utf-16"),
}


@pytest.mark.parametrize("path", ["/explain", "/whatif"])
@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
async def test_what_is_no_request_gets_400(pages: Pages, path: str, content: bytes) -> None:
    assert await post(pages, path, content) in {400, 422}
    if content not in (STRANGE["a long number"], STRANGE["infinite"]):
        assert await post(pages, path, content) == 400
    assert await post(pages, path, b"[]", "application/json; charset=nonsense") == 400


async def test_names_of_replicas_that_are_no_text_get_400(pages: Pages) -> None:
    for path in ("/drain", "/undrain"):
        assert await post(pages, f"{path}?replica=%ff%fe", b"{}") in {400, 404}
        assert await post(pages, f"{path}?replica=%ed%a0%80", b"{}") in {400, 404}
    assert await post(pages, "/nowhere", b"{}") == 404
    assert await post(pages, "/status", b"{}") == 405


async def test_what_is_explained_is_bounded_in_bytes_and_at_once(pages: Pages) -> None:
    large = b'{"messages":[' + b"{}," * (5 << 20) + b"{}]}"
    assert await post(pages, "/explain", large) == 413
    assert await post(pages, "/explain", b"{}," * (1 << 20)) == 400
    host, _, port = pages.address.rpartition(":")
    head = f"POST /explain HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    # Bodies that do not come hold the places there are, and no more.
    waiting = [await asyncio.open_connection(host, port) for _ in range(EXPLAINED_AT_ONCE)]
    for _, writer in waiting:
        writer.write(f"{head}content-length: 100\r\n\r\n".encode())
        await writer.drain()
    while pages.server._explaining < EXPLAINED_AT_ONCE:
        await asyncio.sleep(0.01)
    assert await post(pages, "/explain", b"{}") == 429
    for _, writer in waiting:
        writer.close()
    while pages.server._explaining:
        await asyncio.sleep(0.01)
    assert await post(pages, "/explain", b"{}") == 422


async def test_a_body_that_does_not_come_gives_its_place_back(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "SECONDS", 0.05)
    host, _, port = pages.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /explain HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: 100\r\n\r\n{{".encode())
    assert (await reader.readline()).split()[1] == b"408"
    writer.close()
    assert await post(pages, "/explain", b"{}") == 422


async def test_viewers_that_read_nothing_lock_nobody_out(pages: Pages) -> None:
    host, _, port = pages.address.rpartition(":")
    silent = []
    for _ in range(MOST_VIEWERS):
        connection = await asyncio.open_connection(host, port, limit=1)
        connection[1].write(f"GET /console/events HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        await connection[1].drain()
        silent.append(connection)
    console = pages.server._console
    while len(console._viewers) < MOST_VIEWERS:
        await asyncio.sleep(0.01)
    for _ in range(3):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{pages.address}/console/events") as response,
        ):
            assert response.status == 200
            assert (await response.content.readline()) == b"event: status\n"
            assert len(console._viewers) <= MOST_VIEWERS
    for _, writer in silent:
        writer.close()


async def test_a_viewer_that_takes_nothing_is_let_go(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_pages, "INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr(console_pages, "WRITE_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((LOOPBACK, int(pages.address.rpartition(":")[2])))
        silent.sendall(f"GET /console/events HTTP/1.1\r\nhost: {LOOPBACK}\r\n\r\n".encode())
        console = pages.server._console
        while not console._viewers:
            await asyncio.sleep(0.01)
        while console._viewers:
            await asyncio.sleep(0.01)


async def test_the_console_runs_its_own_script_and_no_other(pages: Pages) -> None:
    for path in ("/console", "/"):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{pages.address}{path}") as response,
        ):
            policy = response.headers["content-security-policy"]
            text = await response.text()
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        for kind in ("script", "style"):
            for inline in re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL):
                digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
                assert f"'sha256-{digest}'" in policy
        # What a policy without 'unsafe-inline' refuses.
        assert not re.search(r"<[^>]+\s(style|on\w+)=", text)


async def test_a_taken_port_is_one_line(pages: Pages) -> None:
    with pytest.raises(RefusedError, match=f"admin.address: cannot listen on {pages.address}"):
        await Pages().server.start(pages.address)
    with socket.socket() as probe:
        assert probe.connect_ex((LOOPBACK, int(pages.address.rpartition(":")[2]))) == 0


async def test_a_drain_is_told_who_asked_for_it_and_can_be_taken_back(pages: Pages) -> None:
    async def change(path: str) -> tuple[int, dict[str, Any]]:
        url = f"http://{pages.address}{path}"
        async with aiohttp.ClientSession() as session, session.post(url, json={}) as response:
            return response.status, await response.json()

    code, answer = await change("/drain?replica=10.0.0.1:80")
    assert (code, answer) == (200, {"endpoint": "10.0.0.1:80", "state": "draining", "requests": 0})
    assert json.loads((await get(pages, "/status"))[1])["replicas"][0]["state"] == "draining"
    assert (await change("/undrain?replica=10.0.0.1:80"))[1]["state"] == "healthy"
    assert await change("/drain?replica=10.0.0.9:80") == (
        404,
        {"error": "replica: there is no '10.0.0.9:80'"},
    )
    assert (await change("/drain"))[0] == 400
    assert (await get(pages, "/drain?replica=10.0.0.1:80"))[0] == 405


def test_only_this_machine_may_drain() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.7")
    assert not is_loopback(None)
