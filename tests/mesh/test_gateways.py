"""Each control plane drives a real Envoy with our own manifests; the sidecar is the chart's."""

import asyncio
import json
import random
import string
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.harness import until
from tests.mesh.conftest import require
from tests.mesh.fleet import SERVICE, TENANT, Client, Fleet
from tests.mesh.gateways import LISTENER_SECONDS, EnvoyGateway, Istiod
from tests.mesh.planes import GATEWAY, NAMESPACE, REPLICAS, ROOT, SIDECARS, Api, Object
from weighbridge.envoy.names import DESTINATION

pytestmark = pytest.mark.asyncio(loop_scope="session")

LARGE = 20_000_000
# As in the chart: between its leaving the Service and its end, s.
PAUSE_SECONDS = 5


@dataclass(frozen=True)
class Way:
    """One control plane with one of our files."""

    name: str
    plane: type[EnvoyGateway | Istiod]
    file: Path
    url: str
    # Bodies beyond the buffer are passed on, and not refused.
    streams_bodies: bool = False
    # Replies reach the sidecar that decided, however many there are.
    meters_of_several: bool = True
    # Requests go on as soon as a sidecar is gone.
    fails_open: bool = True
    # What a replica had when it died goes to another.
    repeats: bool = True


ENVOY_GATEWAY = Way(
    "envoy-gateway",
    EnvoyGateway,
    ROOT / "envoy" / "envoy-gateway" / "policies.yaml",
    EnvoyGateway.url,
    meters_of_several=False,
)
ENVOY_GATEWAY_OLDER = Way(
    "envoy-gateway-older-file",
    EnvoyGateway,
    ROOT / "envoy" / "envoy-gateway" / "policies-1.5-to-1.8.yaml",
    EnvoyGateway.url,
)
ISTIO_POOL = Way(
    "istio-inferencepool",
    Istiod,
    ROOT / "envoy" / "istio" / "inferencepool.yaml",
    f"http://{GATEWAY}:10081",
    streams_bodies=True,
    fails_open=False,
    repeats=False,
)
ISTIO_FILTER = Way(
    "istio-envoyfilter",
    Istiod,
    ROOT / "envoy" / "istio" / "envoyfilter.yaml",
    f"http://{GATEWAY}:10082",
)
WAYS = (ENVOY_GATEWAY, ENVOY_GATEWAY_OLDER, ISTIO_POOL, ISTIO_FILTER)
INGRESS = {"istio": "ingressgateway"}


class Planes:
    """The control planes, each started when it is first asked for."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self._given = (fleet.api, fleet.family, directory)
        self._started: dict[type, EnvoyGateway | Istiod] = {}

    async def of(self, way: Way) -> EnvoyGateway | Istiod:
        """The one that serves a way."""
        if way.plane not in self._started:
            plane = way.plane(*self._given)
            await plane.start()
            self._started[way.plane] = plane
        return self._started[way.plane]


@pytest.fixture(scope="session")
def planes(fleet: Fleet, directory: Path) -> Planes:
    """None of them runs yet."""
    require("envoy-gateway", "istiod")
    return Planes(fleet, directory)


@asynccontextmanager
async def serving(way: Way, fleet: Fleet, plane: EnvoyGateway | Istiod) -> AsyncIterator[Way]:
    """A way that takes requests."""
    api = fleet.api
    api.apply_file(way.file)
    try:
        if isinstance(plane, EnvoyGateway):
            envoy = await plane.start_envoy("inference-gateway")
        elif way is ISTIO_POOL:
            labels = {"gateway.networking.k8s.io/gateway-name": "inference-gateway"}
            plane.gateway_service("inference-gateway-istio", 10081, labels)
            await plane.pool_endpoints(SERVICE, REPLICAS)
            envoy = await plane.start_envoy("inference-gateway-istio-1", labels, 1)
        else:
            plane.gateway_service("istio-ingressgateway", 10082, INGRESS)
            server = {
                "port": {"number": 80, "name": "http", "protocol": "HTTP"},
                "hosts": ["*"],
            }
            api.apply(
                {
                    "apiVersion": "networking.istio.io/v1",
                    "kind": "Gateway",
                    "metadata": {"name": "inference-gateway", "namespace": NAMESPACE},
                    "spec": {"selector": INGRESS, "servers": [server]},
                }
            )
            envoy = await plane.start_envoy("istio-ingressgateway-1", INGRESS, 2)
        async with aiohttp.ClientSession() as session:

            async def is_up() -> bool:
                assert envoy.returncode is None, envoy.last_words()
                try:
                    async with session.get(f"{way.url}/v1/models") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            await until(is_up, LISTENER_SECONDS)
        yield way
        await envoy.stop(2)
    finally:
        api.kubectl("delete", "--wait=false", "--ignore-not-found", "-f", str(way.file))


@pytest_asyncio.fixture(
    scope="module", loop_scope="session", params=WAYS, ids=[one.name for one in WAYS]
)
async def way(request: pytest.FixtureRequest, fleet: Fleet, planes: Planes) -> AsyncIterator[Way]:
    """Each in turn."""
    chosen: Way = request.param
    async with serving(chosen, fleet, await planes.of(chosen)) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def client(way: Way, fleet: Fleet) -> AsyncIterator[Client]:
    """A client of the way's gateway; nothing is in flight afterwards."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Client(way.url, fleet, session)
    await fleet.sidecars[0].settled()


async def test_the_control_plane_accepts_the_file(way: Way, api: Api) -> None:
    things = json.loads(api.kubectl("get", "-f", str(way.file), "-o", "json"))["items"]
    said = [
        (one["kind"], condition["type"], condition["status"], condition.get("message"))
        for one in things
        for condition in conditions(one)
        if condition["type"] in {"Accepted", "ResolvedRefs"}
    ]
    assert [one for one in said if one[2] != "True"] == []
    assert said or way is ISTIO_FILTER, "it has said nothing of them yet"


def conditions(thing: Object) -> list[Object]:
    """All that controllers say of an object."""
    status = thing.get("status", {})
    found = list(status.get("conditions", ()))
    for parent in (*status.get("ancestors", ()), *status.get("parents", ())):
        found += parent.get("conditions", ())
    return found


async def test_turns_go_where_the_sidecar_says_and_sessions_stay(
    client: Client, fleet: Fleet
) -> None:
    served: dict[str, set[str]] = {}
    replies = []
    for _turn in range(4):
        texts = [f"session {n} says: " + f"{n} " * 400 for n in range(12)]
        turns = await asyncio.gather(*(client.post(fleet.chat(text)) for text in texts))
        for text, reply in zip(texts, turns, strict=True):
            assert reply.status == 200, reply.body
            served.setdefault(text, set()).add(reply.replica)
        replies += turns
    assert all(len(one) == 1 for one in served.values()), served
    assert len(set.union(*served.values())) > 1
    decided = Counter(one["replica"] for one in (await fleet.sidecars[0].decisions())[-48:])
    assert decided == Counter(reply.replica for reply in replies)


async def test_a_client_cannot_steer(client: Client, fleet: Fleet) -> None:
    home = (await client.post(fleet.chat("steer me"))).replica
    for address in REPLICAS:
        reply = await client.post(fleet.chat("steer me"), {DESTINATION: f"{address}:8000"})
        assert reply.replica == home


async def test_answers_arrive_while_they_are_made(client: Client, way: Way, fleet: Fleet) -> None:
    body = fleet.chat("a long story", stream=True, max_tokens=8000, ignore_eos=True)
    url = f"{way.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        assert response.status == 200
        first = await response.content.readline()
        assert first.startswith(b"data: {")
        status = await fleet.sidecars[0].status()
        assert sum(one["requests"] for one in status["replicas"]) == 1
        rest = await response.read()
    assert rest.rstrip().endswith(b"data: [DONE]")
    assert rest.count(b"data: {") >= 7999


async def test_metering_is_exact(client: Client, way: Way, fleet: Fleet) -> None:
    sidecar = fleet.sidecars[0]
    tenant = {TENANT: f"metering-{way.name}"}
    bodies = [
        fleet.chat(
            f"question {n} " * 40,
            max_tokens=20 + n,
            ignore_eos=True,
            **({"stream": True, "stream_options": {"include_usage": True}} if n % 2 else {}),
        )
        for n in range(60)
    ]
    replies = await asyncio.gather(*(client.post(body, tenant) for body in bodies))
    assert {reply.status for reply in replies} == {200}
    assert client.told["output"] == sum(body["max_tokens"] for body in bodies)
    await until(lambda: len(sidecar.billed(tenant[TENANT])) == 60)
    lines = sidecar.billed(tenant[TENANT])
    assert Counter(line["source"] for line in lines) == {"usage": 60}
    assert sum(line["prompt_tokens"] for line in lines) == client.told["prompt"]
    assert sum(line["output_tokens"] for line in lines) == client.told["output"]


async def test_a_body_of_20_mb_is_passed_whole_or_refused_as_too_large(
    client: Client, way: Way, fleet: Fleet
) -> None:
    image = "".join(random.Random(1).choices(string.ascii_letters, k=1000)) * (LARGE // 1000)
    content = [
        {"type": "text", "text": "what is in this picture?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
    ]
    body = fleet.chat("") | {"messages": [{"role": "user", "content": content}]}
    reply = await client.post(body)
    if way.streams_bodies:
        assert reply.status == 200, reply.body[:300]
    else:
        assert reply.status == 413, reply.body[:300]
    # The next one is none the worse for it.
    assert (await client.post(fleet.chat("and on"))).status == 200


async def test_a_replica_that_is_killed_costs_no_request(
    client: Client, way: Way, fleet: Fleet
) -> None:
    bodies = [fleet.chat(f"unhurried {n}", max_tokens=8000, ignore_eos=True) for n in range(40)]
    asked = [asyncio.ensure_future(client.post(body)) for body in bodies]

    async def is_busy() -> bool:
        status = await fleet.sidecars[0].status()
        return all(one["requests"] > 0 for one in status["replicas"])

    await until(is_busy)
    fleet.family.running("replica-0").kill()
    try:
        replies = await asyncio.gather(*asked)
        statuses = Counter(reply.status for reply in replies)
        if way.repeats:
            assert statuses == {200: 40}
        else:
            # Those that it had, and no others.
            assert 0 < statuses.pop(503) <= 20
            assert set(statuses) == {200}
        await until(lambda: is_state(fleet, f"{REPLICAS[0]}:8000", "ejected"))
        after = [await client.post(fleet.chat(f"later {n}")) for n in range(12)]
        assert {reply.status for reply in after} == {200}
    finally:
        await fleet.start_replica(0)
    await until(lambda: is_state(fleet, f"{REPLICAS[0]}:8000", "healthy"), 60)


async def is_state(fleet: Fleet, replica: str, state: str) -> bool:
    """Whether the sidecar sees a replica so."""
    return (await fleet.sidecars[0].states())[replica] == state


async def test_a_sidecar_that_is_killed_costs_no_more_than_it_says(
    client: Client, way: Way, fleet: Fleet
) -> None:
    sidecar = fleet.sidecars[0]
    sidecar.kill()
    try:
        replies = [await client.post(fleet.chat(f"without {n}")) for n in range(24)]
        statuses = Counter(reply.status for reply in replies)
        if way.fails_open:
            assert statuses == {200: 24}
        else:
            assert statuses == {500: 24}
        fleet.put_sidecars(())
        await until(lambda: answered(client, fleet), 60)
    finally:
        await sidecar.start()
        fleet.put_sidecars()
    await until(lambda: is_steered(client, fleet), 60)


async def test_of_two_sidecars_each_bills_what_it_decided(
    client: Client, way: Way, fleet: Fleet
) -> None:
    if not way.meters_of_several:
        pytest.skip("docs/mesh/envoy-gateway.md names the other file for several sidecars")
    tenant = {TENANT: f"two-{way.name}"}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with two(client, fleet):
        for first in range(0, 64, 8):
            bodies = [
                fleet.chat(f"of {n}", max_tokens=20, ignore_eos=True, **(options if n % 2 else {}))
                for n in range(first, first + 8)
            ]
            replies = await asyncio.gather(*(client.post(body, tenant) for body in bodies))
            assert {reply.status for reply in replies} == {200}

        def billed() -> list[list[dict[str, Any]]]:
            return [one.billed(tenant[TENANT]) for one in fleet.sidecars]

        await until(lambda: sum(map(len, billed())) == 64)
        assert all(billed()), "one of them decided nothing"
        lines = [line for one in billed() for line in one]
        assert {line["source"] for line in lines} == {"usage"}
        assert sum(line["output_tokens"] for line in lines) == client.told["output"] == 64 * 20


async def test_a_sidecar_that_leaves_as_the_chart_has_it_costs_nothing(
    client: Client, way: Way, fleet: Fleet
) -> None:
    async with two(client, fleet):
        asked = [asyncio.ensure_future(client.post(fleet.chat(f"on {n}"))) for n in range(8)]
        # Its endpoint goes first; it stops after the chart's pause.
        fleet.put_sidecars(SIDECARS[:1])
        for n in range(20):
            asked.append(asyncio.ensure_future(client.post(fleet.chat(f"meanwhile {n}"))))
            await asyncio.sleep(0.25)
        await fleet.family.running(fleet.sidecars[1].name).stop(5)
        asked += [asyncio.ensure_future(client.post(fleet.chat(f"after {n}"))) for n in range(8)]
        assert {reply.status for reply in await asyncio.gather(*asked)} == {200}


@asynccontextmanager
async def two(client: Client, fleet: Fleet) -> AsyncIterator[None]:
    """A second sidecar, which is asked as well."""
    second = fleet.sidecars[1]
    child = await second.start()
    fleet.put_sidecars(SIDECARS)
    try:

        async def is_asked() -> bool:
            assert (await client.post(fleet.chat("who decides?"))).status == 200
            return bool(await second.decisions())

        await until(is_asked, 60)
        client.told.clear()
        yield
    finally:
        fleet.put_sidecars()
        if child.returncode is None:
            await second.settled()
            await asyncio.sleep(PAUSE_SECONDS)
            await child.stop(5)


async def answered(client: Client, fleet: Fleet) -> bool:
    """Whether requests are answered."""
    replies = [await client.post(fleet.chat(f"without {n}")) for n in range(8)]
    return {reply.status for reply in replies} == {200}


async def is_steered(client: Client, fleet: Fleet) -> bool:
    """Whether the sidecar decides again."""
    before = len(await fleet.sidecars[0].decisions())
    reply = await client.post(fleet.chat("who decides?"))
    return reply.status == 200 and len(await fleet.sidecars[0].decisions()) > before
