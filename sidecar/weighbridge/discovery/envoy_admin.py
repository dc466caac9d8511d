"""Replicas that Envoy knows already: the hosts of one cluster, read from its admin port."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from weighbridge.config.discovery import EnvoySource
from weighbridge.config.fleet import ReplicaState
from weighbridge.discovery.source import Found, SourceError, from_template
from weighbridge.envoy import admin
from weighbridge.envoy.outliers import mapping, mappings, where_of

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
        asked = self._settings
        async with admin.session() as session:
            while True:
                try:
                    page = await admin.page(
                        session, asked.admin, admin.CLUSTERS, asked.timeout_seconds
                    )
                except admin.EnvoyAdminError as error:
                    raise SourceError(str(error)) from None
                yield await asyncio.to_thread(hosts, page, asked)
                await asyncio.sleep(asked.interval_seconds)


def hosts(page: Mapping[str, Any], settings: EnvoySource) -> tuple[Found, ...]:
    """The hosts of the cluster in the page `/clusters?format=json`."""
    for status in mappings(page.get("cluster_statuses")):
        if status.get("name") == settings.cluster:
            found = [host(one, settings) for one in mappings(status.get("host_statuses"))]
            return tuple(one for one in found if one is not None)
    raise SourceError(f"Envoy at {settings.admin} has no cluster '{settings.cluster}'")


def host(status: Mapping[str, Any], settings: EnvoySource) -> Found | None:
    """One host; None where it has no TCP address."""
    where = where_of(status)
    if where is None:
        return None
    places = mapping(status.get("locality"))
    domains = (places.get(key) for key in ("sub_zone", "zone", "region"))
    domain = next((one for one in domains if isinstance(one, str) and one), "")
    return from_template(settings, where, domain, state(mapping(status.get("health_status"))))


def state(health: Mapping[str, Any]) -> ReplicaState:
    """What Envoy's health status means here."""
    if health.get("failed_active_health_check") or health.get("failed_outlier_check"):
        return "ejected"
    if health.get("failed_active_degraded_check"):
        return "degraded"
    return EDS_STATES.get(str(health.get("eds_health_status")), "healthy")
