"""One Envoy's ADS stream, message by message."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import pytest
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryRequest, DiscoveryResponse
from envoy_data_plane.google.rpc import Status

from weighbridge.config.fleet import Replica
from weighbridge.envoy.names import REPLICA_CLUSTER
from weighbridge.lab.ports import LOOPBACK, find_free_run
from weighbridge.xds.server import METHOD, SERVICE, AdsServer
from weighbridge.xds.session import Session
from weighbridge.xds.snapshot import CLUSTER_TYPE, ENDPOINT_TYPE, Snapshot, snapshot


def listed(number: int, *ports: int) -> Snapshot:
    replicas = [Replica(endpoint=f"10.0.0.1:{port}", profile="p") for port in ports]
    return snapshot(number, replicas, "/health")


def ask(nonce: str = "", kind: str = ENDPOINT_TYPE, refusal: str | None = None) -> DiscoveryRequest:
    return DiscoveryRequest(
        type_url=kind,
        resource_names=[REPLICA_CLUSTER],
        response_nonce=nonce,
        error_detail=None if refusal is None else Status(code=3, message=refusal),
    )


def only(responses: list[DiscoveryResponse]) -> DiscoveryResponse:
    (response,) = responses
    return response


def test_a_list_is_sent_once_asked_for_and_again_when_it_changes() -> None:
    session, first, second = Session(), listed(1, 80), listed(2, 80, 81)
    sent = only(session.on_request(ask(), first))
    assert (sent.version_info, sent.type_url, len(sent.resources)) == ("1", ENDPOINT_TYPE, 1)
    assert session.taken is None, "sent is not taken"
    assert not session.on_request(ask(sent.nonce), first), "an ACK is not answered"
    assert session.taken == 1
    assert not session.on_snapshot(first), "nothing new"
    again = only(session.on_snapshot(second))
    assert again.version_info == "2"
    assert again.nonce != sent.nonce
    assert session.taken == 1


def test_a_refusal_keeps_the_last_list_that_was_taken() -> None:
    session, first, second, third = Session(), listed(1, 80), listed(2, 81), listed(3, 82)
    sent = only(session.on_request(ask(), first))
    session.on_request(ask(sent.nonce), first)
    bad = only(session.on_snapshot(second))
    assert not session.on_request(ask(bad.nonce, refusal="no such thing"), second), (
        "what was refused is not sent again"
    )
    assert (session.taken, session.refusals, session.refusal) == (1, 1, "no such thing")
    assert not session.on_snapshot(second)
    good = only(session.on_snapshot(third))
    session.on_request(ask(good.nonce), third)
    assert (session.taken, session.refusals, session.refusal) == (3, 1, None)


def test_an_answer_to_an_overtaken_response_counts_for_nothing() -> None:
    session, first, second = Session(), listed(1, 80), listed(2, 81)
    old = only(session.on_request(ask(), first))
    new = only(session.on_snapshot(second))
    assert not session.on_request(ask(old.nonce), second)
    assert not session.on_request(ask(old.nonce, refusal="late"), second)
    assert (session.taken, session.refusals, session.refusal) == (None, 0, None)
    session.on_request(ask(new.nonce), second)
    assert session.taken == 2


def test_a_type_that_is_not_served_is_not_answered() -> None:
    session, now = Session(), listed(1, 80)
    listener = "type.googleapis.com/envoy.config.listener.v3.Listener"
    assert not session.on_request(ask(kind=listener), now)
    assert not session.on_snapshot(now)
    assert only(session.on_request(ask(), now)).type_url == ENDPOINT_TYPE


def test_a_cluster_that_is_sent_anew_is_followed_by_its_endpoints() -> None:
    session, now = Session(), listed(1, 80)
    for kind in (CLUSTER_TYPE, ENDPOINT_TYPE):
        sent = only(session.on_request(ask(kind=kind), now))
        session.on_request(ask(sent.nonce, kind), now)
    assert [one.type_url for one in session.on_snapshot(listed(2, 81))] == [ENDPOINT_TYPE]
    other = snapshot(2, [Replica(endpoint="10.0.0.1:81", profile="p")], "/other-health")
    assert [one.type_url for one in session.on_snapshot(other)] == [CLUSTER_TYPE, ENDPOINT_TYPE]


async def came_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_server_logs_a_refusal_and_knows_what_envoy_still_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = f"{LOOPBACK}:{find_free_run(1)}"
    server = await AdsServer("/health").start(address)
    requests: asyncio.Queue[DiscoveryRequest] = asyncio.Queue()

    async def sent() -> AsyncIterator[DiscoveryRequest]:
        while True:
            yield await requests.get()

    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(
            f"/{SERVICE}/{METHOD}",
            request_serializer=bytes,
            response_deserializer=DiscoveryResponse.parse,
        )(sent())
        await server.tell([Replica(endpoint="10.0.0.1:80", profile="p")])
        requests.put_nowait(ask())
        requests.put_nowait(ask((await call.read()).nonce))
        (session,) = server.sessions
        await came_true(lambda: session.taken == 1)
        await server.tell([Replica(endpoint="10.0.0.2:80", profile="p")])
        requests.put_nowait(ask((await call.read()).nonce, refusal="no such thing"))
        await came_true(lambda: session.refusals == 1)
        assert server.taken() == frozenset()
        await server.tell([Replica(endpoint="10.0.0.3:80", profile="p")])
        assert (await call.read()).version_info == "3"
        assert (session.taken, session.refusal) == (1, "no such thing")
        call.cancel()
    await server.stop()
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == ["Envoy  refuses the list: no such thing"]
