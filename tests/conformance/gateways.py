"""Envoy as gateways configure it for an InferencePool: one listener and one cluster for each way.

The settings follow the gateways' own code (of August 2026, where no other date is given), without
names, TLS, and what is no part of the protocol:

- `header`: Envoy Gateway's EndpointOverride in internal/xds/translator/cluster.go, its
  EnvoyExtensionPolicy in internal/xds/translator/extproc.go;
- `per_route`: Istio: `InferencePoolExtProc` in pilot/pkg/xds/filters/filters.go,
  the route's overrides in pilot/pkg/networking/core/route/route.go, the cluster's policy in
  pilot/pkg/networking/core/cluster_builder.go;
- `original_dst`: Envoy AI Gateway: inferencepool.go and post_cluster_modify.go in
  internal/extensionserver;
- `subset`: kgateway's Envoy of 2025: plugin.go and backends.go in
  internal/kgateway/extensions2/plugins/inferenceextension/endpointpicker;
- `metadata`: no gateway's: the choice read from metadata by a filter that is always on;
- `streamed`: an EnvoyExtensionPolicy with `request: Buffered` and `response: Streamed`.

Istio forwards no namespace but `envoy.lb`; the hint's is forwarded here for each, so that all cases
can be tried.
"""

from collections.abc import Sequence
from typing import Any, Literal

from weighbridge.address import parse_host_port
from weighbridge.envoy.names import DESTINATION, METADATA_NAMESPACE, SERVED, SIDECAR_CLUSTER

Gateway = Literal["metadata", "header", "per_route", "original_dst", "subset", "streamed"]

TYPE = "type.googleapis.com/"
EXT_PROC = "envoy.filters.http.ext_proc"
DUPLEX = {
    "request_header_mode": "SEND",
    "request_body_mode": "FULL_DUPLEX_STREAMED",
    "request_trailer_mode": "SEND",
    "response_header_mode": "SEND",
    "response_body_mode": "FULL_DUPLEX_STREAMED",
    "response_trailer_mode": "SEND",
}
STREAMED = DUPLEX | {
    "request_body_mode": "BUFFERED",
    "request_trailer_mode": "SKIP",
    "response_body_mode": "STREAMED",
    "response_trailer_mode": "SKIP",
}
NOTHING = {
    "request_header_mode": "SKIP",
    "request_body_mode": "NONE",
    "request_trailer_mode": "SKIP",
    "response_header_mode": "SKIP",
    "response_body_mode": "NONE",
    "response_trailer_mode": "SKIP",
}
# What gateways call the picker by. Istio gives none: there Envoy sends the cluster's name.
AUTHORITIES: dict[Gateway, str] = {
    "header": "weighbridge.inference",
    "per_route": "outbound|9002||weighbridge.inference.svc.cluster.local",
}
NAMESPACES = {
    "forwarding_namespaces": {"untyped": [METADATA_NAMESPACE, "envoy.lb.subset_hint"]},
    "receiving_namespaces": {"untyped": [METADATA_NAMESPACE]},
}
METADATA_SOURCE = {"metadata": {"key": METADATA_NAMESPACE, "path": [{"key": DESTINATION}]}}
# What a policy of the pool's cluster reads the choice from; the last two have none.
SOURCES: dict[Gateway, list[dict[str, Any]]] = {
    "metadata": [METADATA_SOURCE],
    "header": [{"header": DESTINATION}],
    "streamed": [{"header": DESTINATION}],
    "per_route": [METADATA_SOURCE],
}
FALLBACKS: dict[Gateway, tuple[str, str]] = {
    "metadata": ("least_request", "LeastRequest"),
    "header": ("random", "Random"),
    "streamed": ("random", "Random"),
    "per_route": ("round_robin", "RoundRobin"),
}
# Stands in for whatever tells a gateway the subset: endpoints of a header, `none` for no endpoint.
HINT = """
function envoy_on_request(handle)
  local hint = handle:headers():get("x-test-subset")
  if hint == nil then return end
  local list = {}
  if hint ~= "none" then
    for one in string.gmatch(hint, "[^ ]+") do list[#list + 1] = one end
  end
  handle:streamInfo():dynamicMetadata():set(
    "envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset", list)
end
"""


def typed(kind: str, **fields: Any) -> dict[str, Any]:
    """A typed configuration."""
    return {"@type": TYPE + kind, **fields}


def asked(gateway: Gateway) -> dict[str, Any]:
    """The endpoint picker's service."""
    authority = AUTHORITIES.get(gateway, "picker.default.svc:9002")
    return {"envoy_grpc": {"cluster_name": SIDECAR_CLUSTER, "authority": authority}}


def ext_proc(gateway: Gateway) -> dict[str, Any]:
    """The filter that asks the endpoint picker."""
    per_route = gateway == "per_route"
    mode = STREAMED if gateway == "streamed" else DUPLEX
    return typed(
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service=asked(gateway),
        processing_mode=NOTHING if per_route else mode,
        message_timeout="1000s" if per_route else "5s",
        failure_mode_allow=per_route,
        metadata_options=NAMESPACES,
        # As EnvoyExtensionPolicy renders it.
        allow_mode_override=gateway == "header",
    )


GZIP = {
    "name": "gzip",
    "typed_config": typed("envoy.extensions.compression.gzip.compressor.v3.Gzip"),
}
HEADER_TO_METADATA = {
    "name": "envoy.filters.http.header_to_metadata",
    "typed_config": typed(
        "envoy.extensions.filters.http.header_to_metadata.v3.Config",
        request_rules=[
            {
                "header": DESTINATION,
                "on_header_present": {
                    "metadata_namespace": METADATA_NAMESPACE,
                    "key": DESTINATION,
                    "type": "STRING",
                },
            }
        ],
    ),
}


def route(gateway: Gateway) -> dict[str, Any]:
    """The route to a pool, which retries what a replica did not begin."""
    found: dict[str, Any] = {
        "match": {"prefix": "/"},
        "route": {
            "cluster": f"pool-{gateway}",
            "timeout": "0s",
            "retry_policy": {"retry_on": "connect-failure,refused-stream,reset", "num_retries": 2},
        },
    }
    if gateway in {"per_route", "subset"}:
        overrides = {"grpc_service": asked(gateway), "failure_mode_allow": False}
        if gateway == "per_route":
            overrides["processing_mode"] = DUPLEX
        found["typed_per_filter_config"] = {
            EXT_PROC: typed(
                "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", overrides=overrides
            )
        }
    return found


def listener(gateway: Gateway, port: int) -> dict[str, Any]:
    """What clients reach."""
    filters = [
        {
            "name": "envoy.filters.http.lua",
            "typed_config": typed(
                "envoy.extensions.filters.http.lua.v3.Lua",
                default_source_code={"inline_string": HINT},
            ),
        },
        {"name": EXT_PROC, "typed_config": ext_proc(gateway)},
        # Nearer to the pool: the picker sees replies as they are sent on to such clients.
        {
            "name": "envoy.filters.http.compressor",
            "typed_config": typed(
                "envoy.extensions.filters.http.compressor.v3.Compressor",
                compressor_library=GZIP,
                response_direction_config={
                    "common_config": {"content_type": ["application/json", "text/event-stream"]}
                },
            ),
        },
        *([HEADER_TO_METADATA] if gateway == "subset" else []),
        {
            "name": "envoy.filters.http.router",
            "typed_config": typed("envoy.extensions.filters.http.router.v3.Router"),
        },
    ]
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=gateway,
        always_set_request_id_in_response=True,
        route_config={
            "virtual_hosts": [{"name": "pool", "domains": ["*"], "routes": [route(gateway)]}]
        },
        http_filters=filters,
    )
    return {
        "name": gateway,
        "address": socket(f"127.0.0.1:{port}"),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }


def pool(gateway: Gateway, replicas: Sequence[str]) -> dict[str, Any]:
    """The pool's cluster: the host that the picker named, else the gateway's own policy."""
    if gateway == "subset":
        return subset_pool(replicas)
    if gateway == "original_dst":
        return ORIGINAL_DST_POOL
    name, kind = FALLBACKS[gateway]
    fallback = {
        "name": f"envoy.load_balancing_policies.{name}",
        "typed_config": typed(f"envoy.extensions.load_balancing_policies.{name}.v3.{kind}"),
    }
    policy = typed(
        "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
        override_host_sources=SOURCES[gateway],
        selected_host_key={"key": METADATA_NAMESPACE, "path": [{"key": SERVED}]},
        fallback_policy={"policies": [{"typed_extension_config": fallback}]},
    )
    return cluster(f"pool-{gateway}", replicas) | {
        "load_balancing_policy": {
            "policies": [
                {
                    "typed_extension_config": {
                        "name": "envoy.load_balancing_policies.override_host",
                        "typed_config": policy,
                    }
                }
            ]
        }
    }


# Goes wherever the header says.
ORIGINAL_DST_POOL = {
    "name": "pool-original_dst",
    "type": "ORIGINAL_DST",
    "connect_timeout": "10s",
    "lb_policy": "CLUSTER_PROVIDED",
    "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
}


def subset_pool(replicas: Sequence[str]) -> dict[str, Any]:
    """A pool whose hosts are found by metadata that equals the choice, the whole of it."""
    found = cluster("pool-subset", replicas)
    hosts = found["load_assignment"]["endpoints"][0]["lb_endpoints"]
    for replica, host in zip(replicas, hosts, strict=True):
        host["metadata"] = {"filter_metadata": {METADATA_NAMESPACE: {DESTINATION: replica}}}
    selectors = [{"keys": [DESTINATION]}]
    return found | {
        "lb_policy": "ROUND_ROBIN",
        "lb_subset_config": {"subset_selectors": selectors, "fallback_policy": "ANY_ENDPOINT"},
    }


def picker(address: str) -> dict[str, Any]:
    """The endpoint picker's cluster, over HTTP/2."""
    options = typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": {}},
    )
    return cluster(SIDECAR_CLUSTER, [address]) | {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        }
    }


def cluster(name: str, members: Sequence[str]) -> dict[str, Any]:
    """A cluster of fixed members."""
    hosts = [{"endpoint": {"address": socket(member)}} for member in members]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]},
    }


def socket(address: str) -> dict[str, Any]:
    """`ip:port` as Envoy writes it."""
    where = parse_host_port(address)
    return {"socket_address": {"address": where.host, "port_value": where.port}}


def bootstrap(
    ports: dict[Gateway, int], admin: str, sidecar: str, replicas: Sequence[str]
) -> dict[str, Any]:
    """Envoy's bootstrap: a listener for each way of gateways."""
    return {
        "node": {"id": "gateway", "cluster": "gateway"},
        "admin": {"address": socket(admin)},
        "static_resources": {
            "listeners": [listener(gateway, port) for gateway, port in ports.items()],
            "clusters": [picker(sidecar), *(pool(gateway, replicas) for gateway in ports)],
        },
    }
