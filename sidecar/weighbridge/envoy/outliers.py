"""Which replicas Envoy has taken out, by its admin page of clusters."""

from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp

# The flags of a host that Envoy sends nothing to.
OUT_FLAGS = ("failed_outlier_check", "failed_active_health_check")


async def fetch(
    session: aiohttp.ClientSession, admin: str, timeout_seconds: float
) -> dict[str, bool] | None:
    """Of each endpoint that Envoy knows, whether it has taken it out; None: it did not answer."""
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    url = f"http://{admin}/clusters?format=json"
    try:
        async with session.get(url, timeout=timeout, allow_redirects=False) as response:
            if response.status != 200:
                return None
            page = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    return read_clusters(page)


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


def endpoint_of(host: Mapping[str, Any]) -> str | None:
    """`ip:port`."""
    address = host.get("address")
    socket = address.get("socket_address") if isinstance(address, dict) else None
    if not isinstance(socket, dict):
        return None
    ip, port = socket.get("address"), socket.get("port_value")
    if not isinstance(ip, str) or not isinstance(port, int):
        return None
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def is_out(host: Mapping[str, Any]) -> bool:
    """Whether one of the flags is set."""
    status = host.get("health_status")
    return isinstance(status, dict) and any(status.get(flag) is True for flag in OUT_FLAGS)
