"""Envoy's whole bootstrap file, rendered from a configuration."""

import json
from typing import Any, Literal

import yaml
from betterproto2 import Casing
from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapDynamicResources,
    BootstrapStaticResources,
    LayeredRuntime,
    RuntimeLayer,
    RuntimeLayerAdminLayer,
)
from envoy_data_plane.envoy.config.core.v3 import (
    ApiConfigSource,
    ApiConfigSourceApiType,
    ApiVersion,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Node,
)

from weighbridge.address import parse_endpoint, parse_host_port, parse_listen
from weighbridge.config.file import Config
from weighbridge.envoy import names
from weighbridge.envoy.clusters import (
    ads_cluster,
    ads_source,
    collector_cluster,
    replica_cluster,
    sidecar_cluster,
)
from weighbridge.envoy.listener import listener
from weighbridge.envoy.overload import overload_manager
from weighbridge.envoy.pack import address
from weighbridge.errors import ConfigError

RenderFormat = Literal["yaml", "json"]


def bootstrap(config: Config) -> Bootstrap:
    """The bootstrap: one listener, the replicas, the sidecar, the admin port on loopback.

    Where the sidecar serves the list of replicas (`discovery.ads.address`), Envoy asks it for them.
    """
    if config.listen.tls and not config.envoy.sidecar_tls:
        raise ConfigError("envoy.sidecar_tls: is needed, as listen.tls is set")
    ads = config.discovery.ads.address
    collector = config.tracing.collector if config.tracing.envoy else None
    replicas = [parse_endpoint(replica.endpoint) for replica in config.replicas]
    return Bootstrap(
        node=Node(id="weighbridge", cluster="weighbridge"),
        admin=Admin(address=address(parse_host_port(config.envoy.admin))),
        static_resources=BootstrapStaticResources(
            listeners=[listener(config)],
            clusters=[
                replica_cluster(replicas, config.health.path)
                if ads is None
                else ads_cluster(parse_listen(ads), config.envoy.sidecar_tls),
                sidecar_cluster(parse_listen(config.listen.address), config.envoy.sidecar_tls),
                *([collector_cluster(parse_host_port(collector))] if collector else []),
            ],
        ),
        dynamic_resources=None if ads is None else dynamic_resources(),
        overload_manager=overload_manager(config.envoy),
        # Lets /runtime_modify of the admin port change runtime keys.
        layered_runtime=LayeredRuntime(
            layers=[RuntimeLayer(name="admin", admin_layer=RuntimeLayerAdminLayer())]
        ),
    )


def dynamic_resources() -> BootstrapDynamicResources:
    """One ADS stream, over which the replicas' cluster comes."""
    return BootstrapDynamicResources(
        ads_config=ApiConfigSource(
            api_type=ApiConfigSourceApiType.GRPC,
            transport_api_version=ApiVersion.V3,
            grpc_services=[
                GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=names.ADS_CLUSTER))
            ],
            set_node_on_first_message_only=True,
        ),
        cds_config=ads_source(),
    )


def render(config: Config, style: RenderFormat = "yaml") -> str:
    """The bootstrap file's text."""
    content: dict[str, Any] = bootstrap(config).to_dict(casing=Casing.SNAKE)
    if style == "json":
        return json.dumps(content, indent=2) + "\n"
    return yaml.safe_dump(content, sort_keys=False, width=100)
