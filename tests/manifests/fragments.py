"""Writes the Envoy files that follow from `weighbridge envoy render`: `make fragments`.

Plain Envoy's and Istio's fragments and compose's Envoy hold the rendered filters and clusters, so
that the tests of the rendered configuration, through a real Envoy, speak for them too.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from weighbridge.config.file import Config
from weighbridge.envoy.bootstrap import render

ROOT = Path(__file__).parents[2]
Tree = dict[str, Any]

ISTIO_SIDECAR = "outbound|9002||weighbridge.inference.svc.cluster.local"
ISTIO_REPLICAS = "outbound|8000||llama-3-1-8b.inference.svc.cluster.local"
# Of a route: the sidecar is sent whole bodies up to it, and larger ones get 413.
BODY_LIMIT = "request_body_buffer_limit"
REMOVED = "request_headers_to_remove"
MANAGER = "envoy.filters.network.http_connection_manager"
HTTP_MANAGER = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
    "HttpConnectionManager"
)
DNS_CLUSTER = "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster"

# What goes where: keys of the connection manager, of the route and of the cluster of the replicas.
BOUNDS = "overload_manager"
OF_MANAGER = ("local_reply_config", "request_timeout", "http2_protocol_options")
OF_ROUTE = (BODY_LIMIT, REMOVED, "typed_per_filter_config")
OF_CLUSTER = ("load_balancing_policy", "circuit_breakers", "typed_extension_protocol_options")

PLAIN_HEAD = """\
# What an Envoy configuration of your own needs, to be copied to where each key belongs. The cluster
# of your replicas keeps its name, discovery and health checks; docs/mesh/plain-envoy.md explains.
"""
EXAMPLE_HEAD = """\
# before.yaml with the pieces of fragment.yaml in it; docs/getting-started.md runs it.
"""
ISTIO_HEAD = """\
# Istio without InferencePool: filters before the router of one gateway, and the policy that takes
# the host that they chose. docs/mesh/istio.md says more.
#
# To change: the gateway's label, and the two clusters' names, outbound|PORT||SERVICE.NAMESPACE...
"""
OLDER_GATEWAY_HEAD = """\
# Envoy Gateway 1.5 to 1.8: policies.yaml without what their API does not know. What to
# change is said there. They cannot copy replies: the filter that asks for a request is sent its
# reply too, and each piece of that waits for the sidecar. See docs/mesh/envoy-gateway.md.
"""
COMPOSE_HEAD = """\
# Envoy of docker-compose.yml: what `weighbridge envoy render` writes for the sidecar at
# weighbridge:9002, but that replicas are all containers behind one name, looked for each second,
# and that the admin port is open within the network (published on the host's loopback alone).
"""


class _Dumper(yaml.SafeDumper):
    """Indents lists, and writes a thing that is there twice twice."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(tree: Tree) -> str:
    """YAML as the fragments have it."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=100)


def bootstrap(**settings: Any) -> Tree:
    """The rendered configuration of two replicas."""
    replicas = [{"endpoint": f"127.0.0.1:{port}", "profile": "p"} for port in (8001, 8002)]
    content: Tree = yaml.safe_load(
        render(Config.model_validate({"replicas": replicas, **settings}))
    )
    return content


def manager(tree: Tree) -> Tree:
    """The HTTP connection manager."""
    listener = tree["static_resources"]["listeners"][0]
    found: Tree = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def cluster(tree: Tree, name: str) -> Tree:
    """A cluster by its name."""
    clusters = tree["static_resources"]["clusters"]
    return copy.deepcopy(next(one for one in clusters if one["name"] == name))


def plain() -> str:
    """The pieces for somebody's own Envoy."""
    tree = bootstrap()
    routes = manager(tree)["route_config"]["virtual_hosts"][0]["routes"]
    route = next(one for one in routes if "retry_policy" in one.get("route", {}))
    replicas = cluster(tree, "replicas")
    pieces = (
        (
            "In the HTTP connection manager, before envoy.filters.http.router.",
            {"http_filters": manager(tree)["http_filters"][:-1]},
        ),
        (
            "In the HTTP connection manager: errors as JSON, and an end to unfinished bodies.",
            {key: manager(tree)[key] for key in OF_MANAGER},
        ),
        (
            "In the route to the replicas; the filters are off in all others.",
            {
                "route": {key: route["route"][key] for key in ("timeout", "retry_policy")},
                **{key: route[key] for key in OF_ROUTE},
            },
        ),
        (
            "In the cluster of the replicas, in place of its lb_policy.",
            {key: replicas[key] for key in OF_CLUSTER},
        ),
        ("Beside the listeners and clusters: bounds of Envoy's own.", {BOUNDS: tree[BOUNDS]}),
        ("Beside your other clusters: the sidecar.", {"clusters": [cluster(tree, "weighbridge")]}),
    )
    return PLAIN_HEAD + "".join(f"\n# {says}\n{dump(piece)}" for says, piece in pieces)


def plain_example() -> str:
    """Somebody's own Envoy with the pieces in it."""
    tree: Tree = yaml.safe_load((ROOT / "envoy" / "plain" / "before.yaml").read_text())
    pieces: Tree = yaml.safe_load(plain())
    filters = manager(tree)["http_filters"]
    manager(tree)["http_filters"] = [*pieces["http_filters"], *filters]
    for route in manager(tree)["route_config"]["virtual_hosts"][0]["routes"]:
        route["route"] |= pieces["route"]
        route |= {key: pieces[key] for key in OF_ROUTE}
    manager(tree).update({key: pieces[key] for key in OF_MANAGER})
    tree[BOUNDS] = pieces[BOUNDS]
    replicas = tree["static_resources"]["clusters"][0]
    del replicas["lb_policy"]
    replicas |= {key: pieces[key] for key in OF_CLUSTER}
    tree["static_resources"]["clusters"] += pieces["clusters"]
    return EXAMPLE_HEAD + dump(tree)


def istio() -> str:
    """The EnvoyFilter, and the VirtualService beside it."""
    tree = bootstrap()
    filters = copy.deepcopy(manager(tree)["http_filters"][:-1])
    for one in filters:
        if "grpc_service" in one["typed_config"]:
            one["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = ISTIO_SIDECAR
    before_router = {
        "context": "GATEWAY",
        "listener": {
            "filterChain": {
                "filter": {
                    "name": MANAGER,
                    "subFilter": {"name": "envoy.filters.http.router"},
                }
            }
        },
    }
    patches = [
        {
            "applyTo": "HTTP_FILTER",
            "match": before_router,
            "patch": {"operation": "INSERT_BEFORE", "value": one},
        }
        for one in filters
    ]
    routes = manager(tree)["route_config"]["virtual_hosts"][0]["routes"]
    route = next(one for one in routes if BODY_LIMIT in one)
    patches.append(
        {
            "applyTo": "HTTP_ROUTE",
            "match": {"context": "GATEWAY"},
            "patch": {"operation": "MERGE", "value": {key: route[key] for key in OF_ROUTE}},
        }
    )
    whole_manager = {
        "context": "GATEWAY",
        "listener": {"filterChain": {"filter": {"name": MANAGER}}},
    }
    own = {"@type": HTTP_MANAGER, **{key: manager(tree)[key] for key in OF_MANAGER}}
    patches.append(
        {
            "applyTo": "NETWORK_FILTER",
            "match": whole_manager,
            "patch": {"operation": "MERGE", "value": {"name": MANAGER, "typed_config": own}},
        }
    )
    replicas, sidecar = cluster(tree, "replicas"), cluster(tree, "weighbridge")
    merged = {
        ISTIO_REPLICAS: {
            key: replicas[key] for key in ("load_balancing_policy", "circuit_breakers")
        },
        ISTIO_SIDECAR: {key: sidecar[key] for key in ("load_balancing_policy", "circuit_breakers")},
    }
    patches += [
        {
            "applyTo": "CLUSTER",
            "match": {"context": "GATEWAY", "cluster": {"name": name}},
            "patch": {"operation": "MERGE", "value": value},
        }
        for name, value in merged.items()
    ]
    place = {"namespace": "inference"}
    gateway = {"istio": "ingressgateway"}
    envoy_filter = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "weighbridge", **place},
        "spec": {"workloadSelector": {"labels": gateway}, "configPatches": patches},
    }
    to_replicas = {
        "match": [{"uri": {"prefix": "/v1/"}}],
        "route": [
            {
                "destination": {
                    "host": "llama-3-1-8b.inference.svc.cluster.local",
                    "port": {"number": 8000},
                }
            }
        ],
        "retries": {
            "attempts": 1,
            "retryOn": "connect-failure,refused-stream,reset,reset-before-request",
            "retryIgnorePreviousHosts": True,
        },
    }
    service = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "inference", **place},
        "spec": {"hosts": ["*"], "gateways": ["inference-gateway"], "http": [to_replicas]},
    }
    says = (
        "# A request that a replica had when it died goes to the next of the list, no further.\n"
        "# Istio sets no time limit unless `timeout` is given, and its API refuses 0s.\n"
    )
    return f"{ISTIO_HEAD}{dump(envoy_filter)}---\n{says}{dump(service)}"


def older_gateway() -> str:
    """Envoy Gateway's policies as its older releases take them."""
    text = (ROOT / "envoy" / "envoy-gateway" / "policies.yaml").read_text(encoding="utf-8")
    things = [*yaml.safe_load_all(text)]
    policies = {thing["kind"]: thing["spec"] for thing in things}
    asks, copies = policies["EnvoyExtensionPolicy"]["extProc"]
    asks["processingMode"]["response"] |= copies["processingMode"]["response"]
    policies["EnvoyExtensionPolicy"]["extProc"] = [asks]
    del policies["BackendTrafficPolicy"]["circuitBreaker"]["retryBudget"]
    return OLDER_GATEWAY_HEAD + "---\n".join(dump(thing) for thing in things)


def compose() -> str:
    """Envoy of docker-compose.yml."""
    tree = bootstrap(
        replicas=[],
        listen={"address": "weighbridge:9002"},
        envoy={"listen": "0.0.0.0:10000"},
    )
    tree["admin"]["address"]["socket_address"]["address"] = "0.0.0.0"
    each_second = {
        "name": "envoy.cluster.strict_dns",
        "typed_config": {
            "@type": DNS_CLUSTER,
            "dns_refresh_rate": "1s",
            "dns_failure_refresh_rate": {"base_interval": "1s", "max_interval": "1s"},
            "dns_lookup_family": "V4_ONLY",
        },
    }
    name = {"socket_address": {"address": "replica", "port_value": 8000}}
    clusters = []
    for one in tree["static_resources"]["clusters"]:
        rest = {key: value for key, value in one.items() if key not in {"name", "type"}}
        clusters.append({"name": one["name"], "cluster_type": each_second, **rest})
        if one["name"] == "replicas":
            endpoints = [{"lb_endpoints": [{"endpoint": {"address": name}}]}]
            clusters[-1]["load_assignment"]["endpoints"] = endpoints
    tree["static_resources"]["clusters"] = clusters
    return COMPOSE_HEAD + dump(tree)


FRAGMENTS: dict[str, Callable[[], str]] = {
    "envoy/plain/fragment.yaml": plain,
    "envoy/plain/example.yaml": plain_example,
    "envoy/istio/envoyfilter.yaml": istio,
    "envoy/envoy-gateway/policies-1.5-to-1.8.yaml": older_gateway,
    "envoy/compose/envoy.yaml": compose,
}


def main() -> None:
    """Writes all of them."""
    for path, write in FRAGMENTS.items():
        (ROOT / path).write_text(write(), encoding="utf-8")


if __name__ == "__main__":
    main()
