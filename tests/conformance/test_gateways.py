"""The endpoint picker behind a real Envoy, configured as gateways configure theirs."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.conformance.gateways import Gateway, bootstrap
from tests.e2e.conftest import TRANSPORTS
from tests.e2e.harness import Reply, Running, until
from weighbridge.config.listen import Transport
from weighbridge.envoy import binary
from weighbridge.envoy.names import DESTINATION
from weighbridge.lab.ports import LOOPBACK, find_free_run
from weighbridge.lab.processes import Family
from weighbridge.lab.stack import Stack, StackOptions

pytestmark = pytest.mark.asyncio(loop_scope="module")

GATEWAYS: tuple[Gateway, ...] = ("metadata", "header", "per_route")


class Gateways:
    """Replicas, the sidecar, and an Envoy with a listener for each way of gateways."""

    def __init__(self, stack: Stack, family: Family, ports: dict[Gateway, int]) -> None:
        self.stack = stack
        self._family = family
        self._ports = ports

    @asynccontextmanager
    async def through(self, gateway: Gateway) -> AsyncIterator[Running]:
        """A client of one gateway."""
        url = f"http://{LOOPBACK}:{self._ports[gateway]}"
        timeout = aiohttp.ClientTimeout(total=30)
        headers = {"accept-encoding": "identity"}
        async with aiohttp.ClientSession(url, timeout=timeout, headers=headers) as client:
            running = Running(self.stack, self._family, client)
            yield running
            await running.settled()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def gateways(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateways]:
    """One stack for all cases of a transport."""
    async with serving(GATEWAYS, tmp_path_factory.mktemp("gateways"), request.param) as found:
        yield found


@asynccontextmanager
async def serving(
    ways: Sequence[Gateway], directory: Path, transport: Transport, **sidecar: Any
) -> AsyncIterator[Gateways]:
    """A stack behind these ways of gateways."""
    # No health checks: only the gateway's retry can tell that a replica is away.
    options = StackOptions(
        replicas=4,
        transport=transport,
        speed=20.0,
        sidecar={"health": {"enabled": False}} | sidecar,
    )
    async with Family(directory) as family:
        stack = Stack(options, directory, family)
        await stack.start_emulator()
        await stack.start_sidecar()
        first = find_free_run(len(ways), stack.ports.replicas[-1] + 1)
        ports = {gateway: first + index for index, gateway in enumerate(ways)}
        content = bootstrap(
            ports, stack.config.envoy.admin, stack.config.listen.address, stack.endpoints
        )
        file = directory / "gateways.json"
        file.write_text(json.dumps(content))
        await family.start("envoy", binary.command(stack.envoy_binary, file, 1))
        await stack.ready(f"{stack.envoy_admin_url}/ready")
        yield Gateways(stack, family, ports)


@pytest.fixture(params=GATEWAYS)
def gateway(request: pytest.FixtureRequest) -> Gateway:
    """Every case is tried with each way of gateways."""
    chosen: Gateway = request.param
    return chosen


async def test_the_chosen_endpoint_serves(gateways: Gateways, gateway: Gateway) -> None:
    """Destination Endpoint: communicated by header and metadata, whichever a gateway reads."""
    async with gateways.through(gateway) as running:
        replies = await asyncio.gather(*(running.post(running.chat(f"{n}")) for n in range(12)))
        for reply in replies:
            assert reply.status == 200, reply.body
            assert (await running.decision_of(reply))["replica"] == reply.replica
        assert len({reply.replica for reply in replies}) > 1


async def test_a_client_cannot_steer(gateways: Gateways, gateway: Gateway) -> None:
    """Destination Endpoint: "The first valid endpoint in the list", which is the picker's."""
    async with gateways.through(gateway) as running:
        for endpoint in running.stack.endpoints:
            reply = await running.post(running.chat("steer"), {DESTINATION: endpoint})
            assert (await running.decision_of(reply))["replica"] == reply.replica


async def test_only_the_subset_serves(gateways: Gateways, gateway: Gateway) -> None:
    """Endpoint Subset: "MUST only select endpoints from the specified list"."""
    async with gateways.through(gateway) as running:
        for endpoint in running.stack.endpoints:
            headers = {"x-test-subset": f"{endpoint} 203.0.113.9:1"}
            reply = await running.post(running.chat("same words, same session"), headers)
            assert (reply.status, reply.replica) == (200, endpoint)


@pytest.mark.parametrize("hint", ["203.0.113.9:1", "none"])
async def test_a_subset_without_an_eligible_endpoint_is_503(
    gateways: Gateways, gateway: Gateway, hint: str
) -> None:
    """Endpoint Subset: an ImmediateResponse with 503 reaches the client, no replica the request."""
    async with gateways.through(gateway) as running:
        reply = await running.post(running.chat(), {"x-test-subset": hint})
        assert reply.status == 503
        assert json.loads(reply.body)["error"]["code"] == "no_replica"
        assert reply.replica == ""


async def test_large_bodies_and_streams_pass_whole(gateways: Gateways, gateway: Gateway) -> None:
    """Streaming mode: full-duplex both ways, chunks within Envoy's limit."""
    async with gateways.through(gateway) as running:
        body = running.chat("much to say " * 30_000, stream=True)
        reply = await running.post(body)
        assert reply.status == 200, reply.body
        assert reply.body.rstrip().endswith(b"data: [DONE]")
        assert (await running.decision_of(reply))["replica"] == reply.replica


async def test_a_request_without_a_body_is_served(gateways: Gateways, gateway: Gateway) -> None:
    """Streaming mode: GET has headers alone, and is answered by the pool."""
    async with (
        gateways.through(gateway) as running,
        running.client.get("/v1/models") as response,
    ):
        assert response.status == 200
        assert running.stack.model in await response.text()


async def test_what_is_no_inference_passes(gateways: Gateways, gateway: Gateway) -> None:
    """Streaming mode: another path's body reaches the pool as it was, with no decision on it."""
    async with gateways.through(gateway) as running:
        before = len(await running.stack.decisions())
        reply = await running.post(b"\0" * 200_000, path="/no/such/path")
        assert reply.status == 404
        assert len(await running.stack.decisions()) == before


async def test_a_retry_goes_down_the_list_and_is_charged_there(
    gateways: Gateways, gateway: Gateway
) -> None:
    """Destination Endpoint: "sequentially down the list"; Destination Endpoint Served."""
    async with gateways.through(gateway) as running:
        body = running.chat("a story that is retried", stream=True, max_tokens=4000)
        headers = {"x-emulate-output-tokens": "4000"}
        probe = await running.post(running.chat("a story that is retried"))
        away = probe.replica
        await running.fault(running.stack.endpoints.index(away), kind="crash")
        try:
            async with running.client.post(
                "/v1/chat/completions", json=body, headers=headers
            ) as response:
                assert response.status == 200
                decision = await running.decision_of(Reply(200, dict(response.headers), b""))
                assert decision["replica"] == away
                assert response.headers["x-served-by"] == decision["fallbacks"][0]

                async def carries() -> dict[str, int]:
                    replicas = (await running.stack.status())["replicas"]
                    return {one["endpoint"]: one["requests"] for one in replicas if one["requests"]}

                async def is_moved() -> bool:
                    return await carries() == {decision["fallbacks"][0]: 1}

                await until(is_moved, 5)
                response.close()
        finally:
            await running.fault(running.stack.endpoints.index(away), kind="heal")
            await running.stack.ready(f"http://{away}/health")


@pytest.mark.parametrize("fallbacks", [0, 2])
async def test_a_gateway_that_knows_no_list_wants_one_endpoint_alone(
    tmp_path: Path, fallbacks: int
) -> None:
    """Destination Endpoint: for kgateway's Envoy and Envoy AI Gateway `placing.fallbacks` is 0."""
    ways: list[Gateway] = ["subset", "original_dst"]
    settings = {"placing": {"fallbacks": fallbacks}, "unweighed": "pick"}
    async with serving(ways, tmp_path, "native", **settings) as found:
        for way in ways:
            async with found.through(way) as running:
                replies = [await running.post(running.chat(f"{n}")) for n in range(12)]
                chosen = [(await running.decision_of(reply))["replica"] for reply in replies]
                obeyed = [reply.replica for reply in replies] == chosen
                assert obeyed == (fallbacks == 0), way
                async with running.client.get("/v1/models") as models:
                    listed = models.status == 200
                assert listed == (way == "subset" or fallbacks == 0), way
