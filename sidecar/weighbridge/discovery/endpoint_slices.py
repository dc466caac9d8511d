"""The endpoints of a Kubernetes Service, from its EndpointSlices."""

from collections.abc import AsyncGenerator, Iterable

from weighbridge.address import HostPort
from weighbridge.config.discovery import EndpointSliceSource
from weighbridge.config.fleet import ReplicaState
from weighbridge.discovery.cluster import Object, connect, follow
from weighbridge.discovery.source import Found, SourceError, from_template

SERVICE_LABEL = "kubernetes.io/service-name"


class ServiceEndpoints:
    """One Service."""

    def __init__(self, settings: EndpointSliceSource) -> None:
        self._settings = settings
        self.name = settings.label

    async def lists(self) -> AsyncGenerator[tuple[Found, ...], None]:
        """The endpoints, whenever a slice changes."""
        from kubernetes_asyncio import client  # noqa: PLC0415

        async with connect(self._settings) as api:
            slices = follow(
                api,
                client.DiscoveryV1Api(api).list_namespaced_endpoint_slice,
                self._settings.namespace,
                label_selector=f"{SERVICE_LABEL}={self._settings.service}",
            )
            async for objects in slices:
                yield endpoints(objects.values(), self._settings)


def endpoints(slices: Iterable[Object], settings: EndpointSliceSource) -> tuple[Found, ...]:
    """The replicas in all slices of the Service. One that is in two slices counts once.

    A Service without pods, or without pods of one family of addresses, has a slice with neither
    endpoints nor ports. Pods that lack the port are in a slice of their own, and are no replicas.
    """
    found: dict[str, Found] = {}
    without: SourceError | None = None
    for one in slices:
        if one.get("addressType") not in {"IPv4", "IPv6"} or not one.get("endpoints"):
            continue
        try:
            number = port(one, settings)
        except SourceError as error:
            without = error
            continue
        for endpoint in one["endpoints"]:
            state = condition(endpoint.get("conditions") or {})
            if state is None:
                continue
            for address in endpoint.get("addresses") or ():
                where = HostPort(address, number)
                zone = endpoint.get("zone") or ""
                found.setdefault(str(where), from_template(settings, where, zone, state))
    if without is not None and not found:
        raise without
    return tuple(found[key] for key in sorted(found))


def port(one: Object, settings: EndpointSliceSource) -> int:
    """The port of a slice's endpoints."""
    ports = [item for item in one.get("ports") or () if item.get("port")]
    if settings.port is not None:
        ports = [item for item in ports if item.get("name") == settings.port]
    if len(ports) != 1:
        wanted = "its one port" if settings.port is None else f"a port '{settings.port}'"
        raise SourceError(f"service {settings.service}: {wanted} is not among {len(ports)} found")
    return int(ports[0]["port"])


def condition(conditions: Object) -> ReplicaState | None:
    """What an endpoint's conditions mean here; None for one that is not to be listed.

    A condition that is left out counts as ready, serving and not terminating.
    """
    if conditions.get("terminating"):
        return "draining" if conditions.get("serving", True) else None
    return "healthy" if conditions.get("ready") is not False else None
