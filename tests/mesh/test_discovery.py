"""Discovery from a real API server, and what becomes of it when that is gone or says no."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from tests.e2e.harness import until
from tests.mesh.fleet import RELEASE, SERVICE, Fleet
from tests.mesh.planes import NAMESPACE, REPLICAS, Api, Object, endpoint_slice, service
from weighbridge.config.discovery import EndpointSliceSource
from weighbridge.discovery.endpoint_slices import ServiceEndpoints
from weighbridge.discovery.source import Found

pytestmark = pytest.mark.asyncio(loop_scope="session")

CROWD = "crowd"
ALL = {f"{one}:8000" for one in REPLICAS}


async def known(fleet: Fleet) -> set[str]:
    """The replicas that the sidecar gives work to."""
    states = await fleet.sidecars[0].states()
    return {one for one, state in states.items() if state != "draining"}


async def fault(fleet: Fleet) -> str:
    """What the sidecar says of its source."""
    sources = (await fleet.sidecars[0].status())["discovery"]["sources"]
    return " ".join(one["error"] for one in sources if one["error"])


async def is_known(fleet: Fleet, wanted: set[str]) -> bool:
    """Whether the sidecar has a list."""
    return await known(fleet) == wanted


async def test_a_list_outlives_the_api_server_and_a_token_that_is_refused(fleet: Fleet) -> None:
    sidecar = fleet.sidecars[0]
    fleet.family.running("kube-apiserver").kill()
    (sidecar.pod.folder / "token").write_text("no longer good")
    await until(lambda: fault(fleet), 60)
    assert await known(fleet) == ALL
    await fleet.api.start_server()

    async def is_refused() -> bool:
        return "401" in await fault(fleet)

    await until(is_refused, 60)
    assert await known(fleet) == ALL
    # The kubelet puts another in its place.
    sidecar.pod.renew()
    fleet.put_endpoints(REPLICAS[1:])
    await until(lambda: is_known(fleet, ALL - {f"{REPLICAS[0]}:8000"}), 60)
    assert await fault(fleet) == ""
    fleet.put_endpoints(REPLICAS)
    await until(lambda: is_known(fleet, ALL), 60)


async def test_rights_that_are_taken_away_cost_no_replica(fleet: Fleet) -> None:
    api = fleet.api
    binding = api.get("rolebinding", RELEASE)
    api.kubectl("-n", NAMESPACE, "delete", "rolebinding", RELEASE)
    fleet.family.running("kube-apiserver").kill()
    await fleet.api.start_server()

    async def is_refused() -> bool:
        return "403" in await fault(fleet)

    await until(is_refused, 60)
    assert await known(fleet) == ALL
    binding["metadata"] = {
        key: binding["metadata"][key] for key in ("name", "namespace", "labels", "annotations")
    }
    api.apply(binding)

    async def is_well() -> bool:
        return await fault(fleet) == ""

    await until(is_well, 60)


async def test_a_service_that_is_scaled_to_zero_has_no_replicas(fleet: Fleet) -> None:
    # As the controller leaves it: neither endpoints nor ports.
    empty = endpoint_slice(SERVICE, (), 8000, "http") | {"endpoints": [], "ports": []}
    fleet.api.apply(empty)

    async def is_empty() -> bool:
        return await known(fleet) == set()

    try:
        await until(is_empty, 60)
        assert await fault(fleet) == ""
    finally:
        fleet.put_endpoints(REPLICAS)
    await until(lambda: is_known(fleet, ALL), 60)


async def test_both_families_and_five_thousand_endpoints_are_followed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.apply(service(CROWD, 8000, "http"))

    def crowd(n: int, count: int = 1000) -> Object:
        addresses = [f"10.{n}.{i // 250}.{i % 250 + 1}" for i in range(count)]
        return endpoint_slice(CROWD, addresses, 8000, "http", f"{CROWD}-{n}")

    six = endpoint_slice(CROWD, ["fd00::1"], 8000, "http", f"{CROWD}-six")
    none = endpoint_slice(CROWD, (), 8000, "http", f"{CROWD}-none")
    slices = [*map(crowd, range(20, 25)), six | {"addressType": "IPv6"}]
    slices.append(none | {"endpoints": [], "ports": [], "addressType": "IPv6"})
    for one in slices:
        api.apply(one)
    monkeypatch.setitem(os.environ, "KUBECONFIG", str(api.kubeconfig))
    content = {"kind": "endpoint_slices", "namespace": NAMESPACE, "service": CROWD}
    settings = EndpointSliceSource.model_validate(content | {"port": "http", "profile": "p"})
    async with aclosing(ServiceEndpoints(settings).lists()) as lists:
        assert len(await following(lists)) == 5001
        api.apply(crowd(24, 999))
        assert len(await following(lists)) == 5000
        unready = endpoint_slice(CROWD, ["10.20.0.1"], 8000, "http", f"{CROWD}-20", ready=False)
        api.apply(unready)
        assert len(await following(lists)) == 4000
        api.kubectl("-n", NAMESPACE, "delete", "endpointslice", f"{CROWD}-six")
        assert len(await following(lists)) == 3999
    api.kubectl("-n", NAMESPACE, "delete", "service", CROWD)
    selector = f"kubernetes.io/service-name={CROWD}"
    api.kubectl("-n", NAMESPACE, "delete", "endpointslices", "-l", selector)


async def following(lists: AsyncGenerator[tuple[Found, ...], None]) -> tuple[Found, ...]:
    """The next list."""
    return await asyncio.wait_for(anext(lists), 30)
