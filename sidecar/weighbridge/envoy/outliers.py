"""Which replicas Envoy has taken out, by its admin page of clusters."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp

from weighbridge.address import MAX_PORT, HostPort
from weighbridge.envoy import admin

# The flags of a host that Envoy sends nothing to.
OUT_FLAGS = ("failed_outlier_check", "failed_active_health_check")


async def fetch(
    session: aiohttp.ClientSession, address: str, timeout_seconds: float
) -> dict[str, bool] | None:
    """Of each endpoint that Envoy knows, whether it has taken it out; None: it did not answer."""
    try:
        page = await admin.page(session, address, admin.CLUSTERS, timeout_seconds)
    except admin.EnvoyAdminError:
        return None
    return await asyncio.to_thread(read_clusters, page)


def read_clusters(page: object) -> dict[str, bool] | None:
    """The page as a mapping; an endpoint of several clusters is out where one of them says so."""
    if not isinstance(page, dict):
        return None
    out: dict[str, bool] = {}
    for host in hosts(page):
        endpoint = endpoint_of(host)
        if endpoint is not None:
            out[endpoint] = out.get(endpoint, False) or is_out(host)
    return out


def hosts(page: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All hosts of all clusters."""
    for cluster in mappings(page.get("cluster_statuses")):
        yield from mappings(cluster.get("host_statuses"))


def mappings(value: object) -> Iterator[Mapping[str, Any]]:
    """The mappings in a list, if it is one."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def mapping(value: object) -> Mapping[str, Any]:
    """The mapping itself, if it is one; else an empty one."""
    return value if isinstance(value, dict) else {}


def endpoint_of(host: Mapping[str, Any]) -> str | None:
    """`ip:port`."""
    where = where_of(host)
    return None if where is None else str(where)


def where_of(host: Mapping[str, Any]) -> HostPort | None:
    """Its IP address and port, if it has any."""
    socket = mapping(mapping(host.get("address")).get("socket_address"))
    ip, port = socket.get("address"), socket.get("port_value")
    if not isinstance(ip, str) or not isinstance(port, int) or not 0 < port <= MAX_PORT:
        return None
    where = HostPort(ip, port)
    return where if where.is_ip else None


def is_out(host: Mapping[str, Any]) -> bool:
    """Whether one of the flags is set."""
    status = mapping(host.get("health_status"))
    return any(status.get(flag) is True for flag in OUT_FLAGS)
