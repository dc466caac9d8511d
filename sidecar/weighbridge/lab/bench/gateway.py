"""Envoy's bootstrap for benchmarks: the shipped filter, and an answer given by Envoy itself."""

import json

from betterproto2 import Casing
from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapStaticResources,
)
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpFilter,
)

from weighbridge.address import HostPort, UnixPath
from weighbridge.config.envoy import EnvoySettings
from weighbridge.envoy import names
from weighbridge.envoy.clusters import replica_cluster, sidecar_cluster
from weighbridge.envoy.listener import EXT_PROC_FILTER, ext_proc, http_filter
from weighbridge.envoy.pack import address, pack

ANSWER = '{"id":"bench","object":"chat.completion","choices":[]}'
MOST_BODY_BYTES = 8 << 20


def gateway(
    listen: HostPort, admin: HostPort, sidecar: UnixPath | None, upstream: HostPort | None
) -> str:
    """Envoy in front of `upstream`, or answering itself; with the filter where there is a sidecar.

    The filter and the sidecar's cluster are those that `weighbridge envoy render` writes.
    """
    settings = EnvoySettings(listen=str(listen), admin=str(admin))
    filters = [] if sidecar is None else [http_filter(EXT_PROC_FILTER, ext_proc(settings))]
    clusters = [] if sidecar is None else [sidecar_cluster(sidecar)]
    if upstream is not None:
        clusters.append(upstream_cluster(upstream))
    return bootstrap(listen, admin, filters, route(upstream), clusters)


def answering(listen: HostPort, admin: HostPort) -> str:
    """An Envoy that reads each request whole and answers it: a fast upstream."""
    whole = HttpFilter(
        name="envoy.filters.http.buffer",
        typed_config=pack(Buffer(max_request_bytes=MOST_BODY_BYTES)),
    )
    return bootstrap(listen, admin, [whole], route(None), [])


def upstream_cluster(upstream: HostPort) -> Cluster:
    """The replicas' cluster as it is rendered, with one host and without health checks."""
    cluster = replica_cluster([upstream], "/health")
    cluster.health_checks = []
    return cluster


def route(upstream: HostPort | None) -> Route:
    """To the upstream, or an answer."""
    everything = RouteMatch(prefix="/")
    if upstream is not None:
        return Route(match=everything, route=RouteAction(cluster=names.REPLICA_CLUSTER))
    direct = DirectResponseAction(status=200, body=DataSource(inline_string=ANSWER))
    return Route(match=everything, direct_response=direct)


def bootstrap(
    listen: HostPort,
    admin: HostPort,
    filters: list[HttpFilter],
    to: Route,
    clusters: list[Cluster],
) -> str:
    """The bootstrap file's text, JSON."""
    router = http_filter("envoy.filters.http.router", Router())
    manager = HttpConnectionManager(
        stat_prefix="bench",
        codec_type=HttpConnectionManagerCodecType.AUTO,
        route_config=RouteConfiguration(
            name="bench", virtual_hosts=[VirtualHost(name="all", domains=["*"], routes=[to])]
        ),
        http_filters=[*filters, router],
    )
    listener = Listener(
        name="bench",
        address=address(listen),
        filter_chains=[
            FilterChain(
                filters=[
                    Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=pack(manager),
                    )
                ]
            )
        ],
    )
    content = Bootstrap(
        admin=Admin(address=address(admin)),
        static_resources=BootstrapStaticResources(listeners=[listener], clusters=clusters),
    )
    return json.dumps(content.to_dict(casing=Casing.SNAKE))
