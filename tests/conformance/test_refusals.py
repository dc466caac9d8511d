"""When the endpoint picker names nobody, and when it names one for every request.

Clauses are headings of the Gateway API inference extension's proposal 004, version 1.0.0.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conformance.conftest import MODEL, PROFILE, REPLICAS, Picker
from tests.conformance.exchange import exchange, refused
from tests.e2e.harness import until
from weighbridge.config.listen import Transport
from weighbridge.lab.processes import Family

CHAT = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}).encode()


@pytest_asyncio.fixture
async def family(tmp_path: Path) -> AsyncIterator[Family]:
    """The processes of one case."""
    async with Family(tmp_path) as found:
        yield found


async def test_no_ready_endpoint_is_503(
    family: Family, tmp_path: Path, transport: Transport
) -> None:
    """Destination Endpoint, constraints: 503 "if there are no ready endpoints"."""
    picker = Picker(family, tmp_path, transport)
    # Nobody answers there, one failed probe ejects, and all may be ejected: by default half stay.
    dead = [{"endpoint": f"127.0.0.1:{port}", "profile": PROFILE} for port in (1, 2)]
    health = {"interval_seconds": 0.1, "round_seconds": 0.1, "failures": 1, "most_ejected": 1}
    await picker.start(replicas=dead, health=health)

    async def is_refused() -> bool:
        async with exchange(picker.address) as stream:
            await stream.request_headers()
            await stream.request_body(CHAT)
            reply = await stream.reply()
            return reply.immediate_response is not None and refused(reply)[0] == 503

    await until(is_refused)
    # Live all the same: restarting the picker would help nobody.
    async with grpc.aio.insecure_channel(picker.address) as channel:
        request = health_pb2.HealthCheckRequest(service="liveness")
        answer = await health_pb2_grpc.HealthStub(channel).Check(request)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_what_is_shed_is_429(family: Family, tmp_path: Path, transport: Transport) -> None:
    """Destination Endpoint, constraints: 429 "if the request should be dropped"."""
    picker = Picker(family, tmp_path, transport)
    await picker.start(admission={"queue": {"window_ms": 1, "queue_requests": 0}})
    async with exchange(picker.address) as first:
        await first.request_headers(headers={"x-request-priority": "sheddable"})
        await first.request_body(CHAT)
        await first.choice()
        async with exchange(picker.address) as second:
            await second.request_headers(headers={"x-request-priority": "sheddable"})
            await second.request_body(CHAT)
            status, error = refused(await second.reply())
            assert (status, error["type"]) == (429, "rate_limit_error")
        # What was shed is charged to nobody.
        assert sum((await picker.in_flight()).values()) == 1
    await picker.settled()


async def test_every_request_gets_an_endpoint_where_that_is_asked_for(
    family: Family, tmp_path: Path, transport: Transport
) -> None:
    """Destination Endpoint: "For each HTTP request, the EPP MUST communicate" (`unweighed: pick`).

    For gateways whose pool has no policy of its own to fall back on.
    """
    picker = Picker(family, tmp_path, transport)
    await picker.start(unweighed="pick")
    seen = set()
    for _ in range(8):
        async with exchange(picker.address) as stream:
            await stream.request_headers(method="GET", path="/v1/models", end_of_stream=True)
            choice = await stream.choice()
            assert choice.header == choice.metadata
            assert len(set(choice.endpoints)) == 3
            seen.add(choice.endpoints[0])
    assert seen == set(REPLICAS), "they do not pile up on one"
    body = b"\x00no json" * 20_000
    async with exchange(picker.address) as stream:
        await stream.request_headers(path="/upload", subset=[REPLICAS[3]])
        assert (await stream.choice()).endpoints == [REPLICAS[3]]
        await stream.request_body(body)
        assert (await stream.body_back(len(body)))[0] == body
    async with exchange(picker.address) as stream:
        await stream.request_headers(method="GET", path="/", end_of_stream=True, subset=[])
        assert refused(await stream.reply())[0] == 503
    assert await picker.in_flight() == {}


async def test_a_replica_that_is_not_ready_is_not_named(
    family: Family, tmp_path: Path, transport: Transport
) -> None:
    """Endpoint Subset: a listed endpoint that is not eligible leaves none, hence 503."""
    picker = Picker(family, tmp_path, transport)
    lone = [{"endpoint": REPLICAS[0], "profile": PROFILE}]
    await picker.start(replicas=lone)
    for subset, status in (([REPLICAS[0]], None), ([REPLICAS[1]], 503)):
        async with exchange(picker.address) as stream:
            await stream.request_headers(subset=subset)
            await stream.request_body(CHAT)
            reply = await stream.reply()
            refusal = reply.immediate_response
            assert (refused(reply)[0] if refusal is not None else None) == status
