"""Sources of replicas: what each makes of what it is told, and what it says when it cannot."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from aiohttp import web

from weighbridge.config.discovery import DnsSource, EnvoySource, FileSource
from weighbridge.config.file import Config
from weighbridge.config.fleet import Replica
from weighbridge.discovery.checks import check_lists, check_sources
from weighbridge.discovery.dns import DnsNames
from weighbridge.discovery.envoy_admin import EnvoyCluster
from weighbridge.discovery.file import FileList
from weighbridge.discovery.gather import Gathering
from weighbridge.discovery.source import Found, Source, SourceError
from weighbridge.discovery.static import StaticSource
from weighbridge.errors import ConfigError

Zone = dict[tuple[str, str], list[str]]


async def first(source: Source) -> tuple[Found, ...]:
    async with aclosing(source.lists()) as lists:
        return await anext(lists)


def endpoints(found: tuple[Found, ...]) -> list[str]:
    return [one.replica.endpoint for one in found]


class Names(asyncio.DatagramProtocol):
    """A name server of its own zone; kinds of questions that it `drops` get no answer."""

    def __init__(self, zone: Zone, drops: set[str]) -> None:
        self.zone = zone
        self._drops = drops
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        query = dns.message.from_wire(data)
        [question] = query.question
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        if kind in self._drops:
            return
        answer = dns.message.make_response(query)
        records = self.zone.get((name, kind))
        if records:
            answer.answer.append(dns.rrset.from_text(name, 1, "IN", kind, *records))
        elif not any(known == name for known, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        assert self._transport is not None
        self._transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def names(zone: Zone, drops: set[str] | None = None) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Names(zone, set() if drops is None else drops), local_addr=("127.0.0.1", 0)
    )
    try:
        port = transport.get_extra_info("sockname")[1]
        yield f"127.0.0.1:{port}"
    finally:
        transport.close()


def dns_source(server: str, **more: Any) -> DnsNames:
    content = {"kind": "dns", "profile": "p", "server": server, "interval_seconds": 0.05} | more
    return DnsNames(DnsSource.model_validate(content))


async def test_dns_gives_all_addresses_in_a_steady_order() -> None:
    zone = {
        ("engines.test.", "A"): ["10.0.0.2", "10.0.0.1"],
        ("engines.test.", "AAAA"): ["fd00::1"],
    }
    async with names(zone) as server:
        source = dns_source(server, name="engines.test", port=8000, domain="rack", model="m")
        async with aclosing(source.lists()) as lists:
            found = await anext(lists)
            assert endpoints(found) == ["10.0.0.1:8000", "10.0.0.2:8000", "[fd00::1]:8000"]
            assert {(one.replica.domain, one.replica.model) for one in found} == {("rack", "m")}
            # Asked again: what has changed is seen, an order that has turned is not.
            zone["engines.test.", "A"] = ["10.0.0.3", "10.0.0.1"]
            assert endpoints(await anext(lists))[:2] == ["10.0.0.1:8000", "10.0.0.3:8000"]


async def test_dns_services_have_ports_of_their_own() -> None:
    zone = {
        ("_http._tcp.engines.test.", "SRV"): ["0 5 8001 a.test.", "0 5 8002 b.test."],
        ("a.test.", "A"): ["10.0.0.1"],
        ("b.test.", "A"): ["10.0.0.2"],
    }
    async with names(zone) as server:
        source = dns_source(server, name="_http._tcp.engines.test", record="srv")
        assert endpoints(await first(source)) == ["10.0.0.1:8001", "10.0.0.2:8002"]


async def test_a_name_without_addresses_is_a_failure_not_an_empty_list() -> None:
    async with names({("known.test.", "TXT"): ['"x"']}) as server:
        for name in ("known.test", "unknown.test"):
            with pytest.raises(SourceError, match=name):
                await first(dns_source(server, name=name, port=8000))


async def test_a_server_that_drops_one_kind_of_question_still_tells_the_other() -> None:
    zone = {("engines.test.", "A"): ["10.0.0.1"], ("engines.test.", "AAAA"): ["fd00::1"]}
    asked = {"name": "engines.test", "port": 8000, "timeout_seconds": 0.2}
    async with names(zone, drops={"AAAA"}) as server:
        assert endpoints(await first(dns_source(server, **asked))) == ["10.0.0.1:8000"]


async def test_a_kind_of_record_that_stops_answering_takes_nobody_away() -> None:
    zone = {("engines.test.", "A"): ["10.0.0.1"], ("engines.test.", "AAAA"): ["fd00::1"]}
    drops: set[str] = set()
    asked = {"name": "engines.test", "port": 8000, "timeout_seconds": 0.2}
    async with names(zone, drops) as server, aclosing(dns_source(server, **asked).lists()) as lists:
        assert endpoints(await anext(lists)) == ["10.0.0.1:8000", "[fd00::1]:8000"]
        drops.add("A")
        with pytest.raises(SourceError, match=r"engines\.test"):
            await anext(lists)


def test_an_address_needs_a_port() -> None:
    with pytest.raises(ValueError, match="port: must be given"):
        DnsSource.model_validate({"kind": "dns", "profile": "p", "name": "n"})


@asynccontextmanager
async def pages(handler: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/{tail:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        [address] = runner.addresses
        yield f"{address[0]}:{address[1]}"
    finally:
        await runner.cleanup()


def host(address: str, **more: Any) -> dict[str, Any]:
    socket = {"address": address, "port_value": 8000}
    return {"address": {"socket_address": socket}, "health_status": {}} | more


async def test_envoys_hosts_come_with_zone_and_health() -> None:
    hosts = [
        host("10.0.0.1", locality={"zone": "a"}, health_status={"eds_health_status": "HEALTHY"}),
        host("10.0.0.2", locality={"zone": "a", "sub_zone": "rack-2"}),
        host("10.0.0.3", health_status={"failed_active_health_check": True}),
        host("10.0.0.4", health_status={"failed_outlier_check": True}),
        host("10.0.0.5", health_status={"eds_health_status": "DRAINING"}),
        host("10.0.0.6", locality={"zone": "z" * 5_000}),
        {"address": {"pipe": {"path": "/run/x.sock"}}},
    ]
    page = {
        "cluster_statuses": [
            {"name": "other", "host_statuses": [host("10.9.9.9")]},
            {"name": "replicas", "host_statuses": hosts},
        ]
    }

    async def answer(request: web.Request) -> web.Response:
        assert request.path_qs == "/clusters?format=json"
        return web.json_response(page)

    async with pages(answer) as admin:
        content = {"kind": "envoy", "profile": "p", "admin": admin, "cluster": "replicas"}
        found = await first(EnvoyCluster(EnvoySource.model_validate(content)))
        with pytest.raises(SourceError, match="no cluster 'nobody'"):
            await first(EnvoyCluster(EnvoySource.model_validate(content | {"cluster": "nobody"})))
    assert endpoints(found) == [f"10.0.0.{n}:8000" for n in range(1, 7)]
    assert [one.replica.domain for one in found] == ["a", "rack-2", "", "", "", "z" * 256]
    states = ["healthy", "healthy", "ejected", "ejected", "draining", "healthy"]
    assert [one.state for one in found] == states


@pytest.mark.parametrize("text", [b"", b"not json", b"\xff\xfe", b"[" * 100_000, b"[]"])
async def test_an_admin_page_that_is_none_is_a_failure(text: bytes) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=text)

    async with pages(answer) as admin:
        content = {"kind": "envoy", "profile": "p", "admin": admin, "cluster": "replicas"}
        with pytest.raises(SourceError, match=admin):
            await first(EnvoyCluster(EnvoySource.model_validate(content)))


@pytest.mark.parametrize(
    "statuses",
    [
        1,
        [1, "x", None, []],
        [host("10.0.0.1")["address"], {"address": []}, {"address": {"socket_address": [1]}}],
        [{"address": {"socket_address": {"address": 1, "port_value": "x"}}}],
        [{"address": {"socket_address": {"address": "fd00::[]1", "port_value": 80}}}],
        [{"address": {"socket_address": {"address": "10.0.0.1", "port_value": 1 << 40}}}],
    ],
)
async def test_hosts_that_are_none_are_passed_over(statuses: Any) -> None:
    good = host("10.0.0.9", locality=[], health_status=7)
    listed = [*statuses, good] if isinstance(statuses, list) else statuses

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(
            {"cluster_statuses": [[], {"name": "replicas", "host_statuses": listed}]}
        )

    async with pages(answer) as admin:
        content = {"kind": "envoy", "profile": "p", "admin": admin, "cluster": "replicas"}
        found = await first(EnvoyCluster(EnvoySource.model_validate(content)))
    assert endpoints(found) == (["10.0.0.9:8000"] if isinstance(statuses, list) else [])


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("replicas:\n- {endpoint: '10.0.0.1:80', profile: p, adapters: [a]}\n")
    settings = FileSource.model_validate(
        {"kind": "file", "path": "list.yaml", "interval_seconds": 0.02}
    )
    async with aclosing(FileList(settings, tmp_path).lists()) as lists:
        [one] = await anext(lists)
        assert one.replica.adapters == ("a",)
        file.write_text(json.dumps({"replicas": []}))
        assert await anext(lists) == ()
        file.write_text("replicas:\n- {endpoint: '10.0.0.1', profile: p}\n")
        with pytest.raises(SourceError, match=r"list.yaml: replicas\[0\].endpoint: "):
            await anext(lists)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(SourceError, match=r"list.yaml: is no regular file"):
        await first(FileList(settings, tmp_path))


class Broken:
    """A source with a mistake in it, or one that is told what nobody thought of."""

    name = "broken"

    async def lists(self) -> AsyncIterator[tuple[Found, ...]]:
        raise AttributeError("'list' object has no attribute 'get'")
        yield ()


async def test_a_source_that_breaks_stops_no_other() -> None:
    one, two = Found(replica("10.0.0.1:80")), Found(replica("10.0.0.2:80"))
    gathering = Gathering(
        [Broken(), Fickle((one,), "away", (one, two))],  # type: ignore[list-item]
        0.02,
        frozenset({"p"}),
        lambda: None,
    )
    running = asyncio.create_task(gathering.run())
    async with asyncio.timeout(5):
        while len(gathering.found()) < 2 or gathering.standings["broken"].failures < 3:
            await asyncio.sleep(0.01)
    assert not running.done(), "they are followed on"
    running.cancel()
    assert "AttributeError" in (gathering.standings["broken"].error or "")


class Fickle:
    """Tells a list, fails, and tells another."""

    name = "fickle"

    def __init__(self, *turns: tuple[Found, ...] | str) -> None:
        self._turns = list(turns)

    async def lists(self) -> AsyncIterator[tuple[Found, ...]]:
        while self._turns:
            turn = self._turns.pop(0)
            if isinstance(turn, str):
                raise SourceError(turn)
            yield turn
        await asyncio.Event().wait()


def replica(endpoint: str, profile: str = "p") -> Replica:
    return Replica(endpoint=endpoint, profile=profile)


async def test_a_source_that_fails_keeps_its_last_list(caplog: pytest.LogCaptureFixture) -> None:
    one, two = Found(replica("10.0.0.1:80")), Found(replica("10.0.0.2:80"))
    fickle = Fickle((one,), "away", "away", (one, two))
    seen: list[list[str]] = []
    gathering = Gathering(
        [StaticSource(()), fickle],  # type: ignore[list-item]
        0.05,
        frozenset({"p"}),
        lambda: seen.append(endpoints(gathering.found())),
    )
    running = asyncio.create_task(gathering.run())
    while gathering.standings["fickle"].error is None:
        await asyncio.sleep(0.01)
    assert endpoints(gathering.found()) == ["10.0.0.1:80"], "the last list stays"
    while len(gathering.found()) < 2:
        await asyncio.sleep(0.01)
    running.cancel()
    assert gathering.standings["fickle"].failures == 2
    assert gathering.standings["fickle"].error is None
    assert seen == [[], ["10.0.0.1:80"], ["10.0.0.1:80", "10.0.0.2:80"]]
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == ["discovery: fickle: away (the last list stays)"], "once, not each time"


async def test_an_address_in_two_spellings_is_one_replica() -> None:
    one, other = Found(replica("10.0.0.1:80")), Found(replica("[::ffff:a00:1]:80"))
    gathering = Gathering(
        [StaticSource((one.replica,)), Fickle((other,))],  # type: ignore[list-item]
        60,
        frozenset({"p"}),
        lambda: None,
    )
    running = asyncio.create_task(gathering.run())
    while not gathering.is_complete:
        await asyncio.sleep(0.01)
    running.cancel()
    assert gathering.found() == (one,)


async def test_a_list_with_an_unknown_profile_is_refused_alone() -> None:
    good, bad = Found(replica("10.0.0.1:80")), Found(replica("10.0.0.2:80", "q"))
    gathering = Gathering(
        [StaticSource((good.replica,)), Fickle((bad,))],  # type: ignore[list-item]
        60,
        frozenset({"p"}),
        lambda: None,
    )
    running = asyncio.create_task(gathering.run())
    while gathering.standings["fickle"].error is None:
        await asyncio.sleep(0.01)
    running.cancel()
    assert gathering.standings["fickle"].error == "10.0.0.2:80: no profile is called 'q'"
    assert gathering.found() == (good,)
    assert not gathering.is_complete


def test_errors_name_the_key() -> None:
    with pytest.raises(ValueError, match="discovery"):
        Config.model_validate({"discovery": {"sources": [{"kind": "carrier pigeon"}]}})


PROFILES = frozenset({"p"})


def checked(tmp_path: Path, *sources: dict[str, str]) -> str:
    """What the checks find in a configuration with these sources."""
    source = tmp_path / "weighbridge.yaml"
    config = Config.model_validate({"discovery": {"sources": list(sources)}})
    try:
        check_sources(config, PROFILES, source)
        check_lists(config, PROFILES, source)
    except ConfigError as error:
        return str(error).removeprefix(str(source))
    return ""


def test_profiles_that_sources_name_are_checked(tmp_path: Path) -> None:
    pool = {"kind": "inference_pool", "pool": "llama", "profile": "p"}
    listed = {"kind": "file", "path": "list.yaml"}
    path = tmp_path / "list.yaml"
    assert not checked(tmp_path, pool, listed), "a list may be written later"
    path.write_text('{"replicas": [{"endpoint": "10.0.0.1:80", "profile": "p"}]}')
    assert not checked(tmp_path, pool, listed)
    mistaken = pool | {"pool": "other", "profile": "q"}
    assert checked(tmp_path, pool, mistaken) == (
        ": discovery.sources[1].profile: no profile is called 'q'"
    )
    path.write_text('{"replicas": [{"endpoint": "10.0.0.1:80", "profile": "q"}]}')
    assert checked(tmp_path, listed) == (
        f": discovery.sources[0]: {path}: replicas[0].profile: no profile is called 'q'"
    )
    path.write_text('{"replicas": 1}')
    assert checked(tmp_path, listed).startswith(
        f": discovery.sources[0]: {path}: replicas: must be"
    )
