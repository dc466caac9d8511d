"""Replicas that Envoy knows already: the hosts of one cluster, read from its admin port."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp

from weighbridge.address import HostPort
from weighbridge.config import ReplicaState
from weighbridge.discovery.settings import EnvoySource
from weighbridge.discovery.source import Found, SourceError, from_template

EDS_STATES: dict[str, ReplicaState] = {
    "UNHEALTHY": "ejected",
    "TIMEOUT": "ejected",
    "DRAINING": "draining",
    "DEGRADED": "degraded",
}


class EnvoyCluster:
    """One cluster of a running Envoy."""

    def __init__(self, settings: EnvoySource) -> None:
        self._settings = settings
        self.name = settings.label

    async def lists(self) -> AsyncGenerator[tuple[Found, ...], None]:
        """The cluster's hosts, each `interval_seconds`."""
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_seconds)
        url = f"http://{self._settings.admin}/clusters?format=json"
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    async with session.get(url) as response:
                        text = await response.read()
                    page = json.loads(text)
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                    raise SourceError(f"{url}: {error or type(error).__name__}") from None
                yield hosts(page, self._settings)
                await asyncio.sleep(self._settings.interval_seconds)


def hosts(page: Mapping[str, Any], settings: EnvoySource) -> tuple[Found, ...]:
    """The hosts of the cluster in the page `/clusters?format=json`."""
    for status in page.get("cluster_statuses", ()):
        if status.get("name") == settings.cluster:
            found = [host(one, settings) for one in status.get("host_statuses", ())]
            return tuple(one for one in found if one is not None)
    raise SourceError(f"Envoy at {settings.admin} has no cluster '{settings.cluster}'")


def host(status: Mapping[str, Any], settings: EnvoySource) -> Found | None:
    """One host; None where it has no TCP address."""
    socket = status.get("address", {}).get("socket_address", {})
    address, port = socket.get("address"), socket.get("port_value")
    if not address or not port:
        return None
    where = HostPort(address, port)
    if not where.is_ip:
        return None
    locality = status.get("locality", {})
    domain = locality.get("sub_zone") or locality.get("zone") or locality.get("region") or ""
    return from_template(settings, where, domain, state(status.get("health_status", {})))


def state(health: Mapping[str, Any]) -> ReplicaState:
    """What Envoy's health status means here."""
    if health.get("failed_active_health_check") or health.get("failed_outlier_check"):
        return "ejected"
    if health.get("failed_active_degraded_check"):
        return "degraded"
    return EDS_STATES.get(health.get("eds_health_status", ""), "healthy")
