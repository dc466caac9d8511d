"""EndpointSlices and InferencePools, listed and watched by the official client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from tests.unit.discovery.cluster_stub import PODS, POOLS, SLICES, Cluster, Object, cluster
from weighbridge.config.discovery import EndpointSliceSource, InferencePoolSource
from weighbridge.discovery import cluster as cluster_module
from weighbridge.discovery.endpoint_slices import ServiceEndpoints
from weighbridge.discovery.inference_pool import PoolPods
from weighbridge.discovery.source import Found, SourceError

SECONDS = 10


@pytest.fixture
async def stub() -> AsyncIterator[Cluster]:
    async with cluster() as found:
        yield found


# As a v1.33 API server tells them, with what nobody reads left out.
def endpoint_slice(name: str, *endpoints: Object, service: str = "engines") -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [
            {"name": "http", "port": 8000, "protocol": "TCP"},
            {"name": "metrics", "port": 9000, "protocol": "TCP"},
        ],
    }


def endpoint(address: str, zone: str = "zone-a", **conditions: bool) -> Object:
    ready = {"ready": True, "serving": True, "terminating": False}
    return {"addresses": [address], "conditions": ready | conditions, "zone": zone}


def pod(
    name: str, address: str, ready: bool = True, labels: dict[str, str] | None = None
) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app": "engine"} | (labels or {}),
        },
        "spec": {"nodeName": "node-1", "containers": []},
        "status": {
            "podIP": address,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def pool(*ports: int, app: str = "engine") -> Object:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "llama", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": app}},
            "targetPorts": [{"number": port} for port in ports],
            "endpointPickerRef": {"name": "weighbridge", "port": {"number": 9002}},
        },
    }


def service(stub: Cluster, **more: Any) -> ServiceEndpoints:
    content = {"kind": "endpoint_slices", "service": "engines", "port": "http", "profile": "p"}
    return ServiceEndpoints(EndpointSliceSource.model_validate(content | {"api": stub.url} | more))


def inference_pool(stub: Cluster) -> PoolPods:
    content = {"kind": "inference_pool", "pool": "llama", "profile": "p", "api": stub.url}
    return PoolPods(InferencePoolSource.model_validate(content))


class Follower:
    """The lists of a source, one after the other."""

    def __init__(self, lists: AsyncIterator[tuple[Found, ...]]) -> None:
        self._lists = lists

    async def next(self) -> dict[str, str]:
        """Endpoint and state of each replica in the next list."""
        found = await asyncio.wait_for(anext(self._lists), SECONDS)
        return {one.replica.endpoint: one.state for one in found}


async def test_a_services_endpoints_are_followed(stub: Cluster) -> None:
    await stub.put(SLICES, endpoint_slice("a", endpoint("10.0.0.1"), endpoint("10.0.0.2")))
    await stub.put(SLICES, endpoint_slice("other", endpoint("10.9.9.9"), service="other"))
    async with aclosing(service(stub).lists()) as lists:
        follower = Follower(lists)
        assert await follower.next() == {"10.0.0.1:8000": "healthy", "10.0.0.2:8000": "healthy"}
        # A second slice, one endpoint of which is in the first as well.
        await stub.put(SLICES, endpoint_slice("b", endpoint("10.0.0.2"), endpoint("10.0.0.3")))
        assert list(await follower.next()) == ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]
        leaving = endpoint("10.0.0.1", ready=False, terminating=True)
        starting = endpoint("10.0.0.2", ready=False)
        await stub.put(SLICES, endpoint_slice("a", leaving, starting))
        assert (await follower.next())["10.0.0.1:8000"] == "draining"
        await stub.delete(SLICES, "a")
        assert list(await follower.next()) == ["10.0.0.2:8000", "10.0.0.3:8000"]
    assert stub.lists == 1, "changes are watched, not listed again and again"


async def test_slices_without_endpoints_or_without_the_port_cost_the_others_nothing(
    stub: Cluster,
) -> None:
    # What a Service with addresses of both families has while its pods have one.
    none: Object = {"addressType": "IPv6", "endpoints": None, "ports": []}
    await stub.put(SLICES, endpoint_slice("a", endpoint("10.0.0.1")))
    await stub.put(SLICES, endpoint_slice("b") | none)
    other: Object = {"ports": [{"name": "grpc", "port": 9002, "protocol": "TCP"}]}
    await stub.put(SLICES, endpoint_slice("c", endpoint("10.0.0.3")) | other)
    async with aclosing(service(stub).lists()) as lists:
        follower = Follower(lists)
        assert await follower.next() == {"10.0.0.1:8000": "healthy"}


async def test_a_service_without_pods_has_no_replicas(stub: Cluster) -> None:
    await stub.put(SLICES, endpoint_slice("a") | {"endpoints": None, "ports": []})
    async with aclosing(service(stub).lists()) as lists:
        assert await Follower(lists).next() == {}


async def test_the_zone_is_the_domain(stub: Cluster) -> None:
    await stub.put(SLICES, endpoint_slice("a", endpoint("10.0.0.1", zone="zone-b")))
    async with aclosing(service(stub).lists()) as lists:
        [one] = await anext(lists)
    assert (one.replica.domain, one.replica.profile) == ("zone-b", "p")


async def test_a_watch_that_is_too_old_is_begun_anew(stub: Cluster) -> None:
    await stub.put(SLICES, endpoint_slice("a", endpoint("10.0.0.1")))
    async with aclosing(service(stub).lists()) as lists:
        follower = Follower(lists)
        await follower.next()
        await stub.put(SLICES, endpoint_slice("a", endpoint("10.0.0.2")))
        assert list(await follower.next()) == ["10.0.0.2:8000"]
        following = asyncio.create_task(follower.next())
        await asyncio.sleep(0.1)
        # Gone while nobody could see it: only a new list can tell.
        stub.objects[SLICES].clear()
        await stub.forget()
        assert await following == {}
    assert stub.lists == 2


async def test_a_port_that_is_not_clear_is_said(stub: Cluster) -> None:
    await stub.put(SLICES, endpoint_slice("a", endpoint("10.0.0.1")))
    for port in (None, "grpc"):
        async with aclosing(service(stub, port=port).lists()) as lists:
            with pytest.raises(SourceError, match=r"service engines: .* port"):
                await anext(lists)


async def test_a_server_that_is_lost_without_a_word_is_noticed(
    stub: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(cluster_module, "LIST_SECONDS", 0.5)
    await stub.put(SLICES, endpoint_slice("a", endpoint("10.0.0.1")))
    async with aclosing(service(stub).lists()) as lists:
        follower = Follower(lists)
        await follower.next()
        # Nothing changes: it is asked again, and nobody hears of a fault.
        following = asyncio.create_task(follower.next())
        assert await following == {"10.0.0.1:8000": "healthy"}
        stub.frozen = True
        with pytest.raises(SourceError, match="API server"):
            await follower.next()


async def test_five_thousand_endpoints_are_followed(stub: Cluster) -> None:
    def crowd(n: int, count: int = 1000) -> Object:
        return endpoint_slice(
            f"s{n}", *(endpoint(f"10.{n}.{i // 250}.{i % 250}") for i in range(count))
        )

    for n in range(5):
        await stub.put(SLICES, crowd(n))
    async with aclosing(service(stub).lists()) as lists:
        follower = Follower(lists)
        assert len(await follower.next()) == 5000
        # A slice is sent whole on one line, of 150 KB here.
        await stub.put(SLICES, crowd(4, 999))
        assert len(await follower.next()) == 4999
    assert stub.lists == 1


async def test_both_families_of_a_service_are_its_replicas(stub: Cluster) -> None:
    await stub.put(SLICES, endpoint_slice("four", endpoint("10.0.0.1")))
    six = endpoint_slice("six", endpoint("fd00::1"), endpoint("fd00::2", ready=False))
    await stub.put(SLICES, six | {"addressType": "IPv6"})
    async with aclosing(service(stub).lists()) as lists:
        assert await Follower(lists).next() == {
            "10.0.0.1:8000": "healthy",
            "[fd00::1]:8000": "healthy",
        }


async def test_a_service_whose_pods_are_not_ready_has_no_replicas(stub: Cluster) -> None:
    starting = [endpoint(f"10.0.0.{n}", ready=False, serving=False) for n in range(3)]
    await stub.put(SLICES, endpoint_slice("a", *starting))
    async with aclosing(service(stub).lists()) as lists:
        assert await Follower(lists).next() == {}


async def test_a_pools_pods_are_followed_by_its_labels(stub: Cluster) -> None:
    await stub.put(POOLS, pool(8000, 8001))
    zone = {"topology.kubernetes.io/zone": "zone-c"}
    await stub.put(PODS, pod("one", "10.0.0.1", labels=zone))
    await stub.put(PODS, pod("stranger", "10.9.9.9", labels={"app": "web"}))
    async with aclosing(inference_pool(stub).lists()) as lists:
        found = await anext(lists)
        assert [one.replica.endpoint for one in found] == ["10.0.0.1:8000", "10.0.0.1:8001"]
        assert {one.replica.domain for one in found} == {"zone-c"}
        follower = Follower(lists)
        await stub.put(PODS, pod("two", "10.0.0.2", ready=False))
        assert "10.0.0.2:8000" not in await follower.next()
        await stub.put(PODS, pod("two", "10.0.0.2"))
        assert "10.0.0.2:8000" in await follower.next()
        going = pod("one", "10.0.0.1")
        going["metadata"]["deletionTimestamp"] = "2026-11-25T12:00:00Z"
        await stub.put(PODS, going)
        assert (await follower.next())["10.0.0.1:8000"] == "draining"
        # Another selector: other pods, without the source being started anew.
        await stub.put(POOLS, pool(80, app="web"))
        assert await follower.next() == {"10.9.9.9:80": "healthy"}


async def test_a_pool_that_is_not_there_is_said(stub: Cluster) -> None:
    async with aclosing(inference_pool(stub).lists()) as lists:
        with pytest.raises(SourceError, match="no InferencePool 'llama'"):
            await anext(lists)


async def test_an_api_server_that_is_away_is_said() -> None:
    async with cluster() as gone:
        source = service(gone)
    async with aclosing(source.lists()) as lists:
        with pytest.raises(SourceError, match="API server"):
            await asyncio.wait_for(anext(lists), SECONDS)
