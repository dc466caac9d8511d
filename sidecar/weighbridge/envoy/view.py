"""What Envoy's admin port says of the sidecar's filters, the routes and the clusters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from weighbridge.envoy import admin

EXT_PROC_TYPE = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
PER_ROUTE_TYPE = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
OVERRIDE_HOST_TYPE = "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost"
# What Envoy takes where nothing is said, s.
MESSAGE_TIMEOUT = 0.2
ROUTE_TIMEOUT = 15.0
EXT_PROC_COUNTERS = (
    "streams_started",
    "streams_failed",
    "failure_mode_allowed",
    "message_timeouts",
)


@dataclass(frozen=True, slots=True)
class Host:
    """A host of a cluster: `ip:port`, or a socket's path."""

    address: str
    healthy: bool
    why: str


@dataclass(frozen=True, slots=True)
class ExtProc:
    """An ext_proc filter."""

    name: str
    cluster: str
    disabled: bool
    observes: bool
    message_timeout_s: float
    max_message_timeout_s: float
    request_body_mode: str = "NONE"


@dataclass(frozen=True, slots=True)
class RouteView:
    """A route to a cluster."""

    cluster: str
    timeout_s: float
    filters_off: frozenset[str]
    has_fraction: bool
    # Bytes, where the route says so.
    body_limit: int | None = None
    # Filters that are off in the chain, and that the route switches on.
    filters_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class EnvoyView:
    """Envoy at one moment."""

    version: str
    state: str
    uptime_s: float
    hosts: Mapping[str, list[Host]]
    filters: list[ExtProc]
    routes: list[RouteView]
    steerable: frozenset[str]
    runtime: Mapping[str, str]
    counters: Mapping[str, int] = field(default_factory=dict)


async def look(address: str) -> EnvoyView:
    """Asks Envoy's admin port at `host:port`. EnvoyAdminError when it does not answer."""
    async with admin.session() as client:
        info = await admin.page(client, address, "/server_info")
        clusters = await admin.page(client, address, "/clusters?format=json")
        dump = await admin.page(client, address, "/config_dump")
        runtime = await admin.page(client, address, "/runtime")
        stats = await admin.page(client, address, "/stats?format=json&filter=ext_proc")
    return view(info, clusters, dump, runtime, stats)


def view(
    info: Mapping[str, Any],
    clusters: Mapping[str, Any],
    dump: Mapping[str, Any],
    runtime: Mapping[str, Any],
    stats: Mapping[str, Any],
) -> EnvoyView:
    """What the five pages say."""
    filters = [ext_proc(one) for one in walk(dump) if is_ext_proc(one)]
    return EnvoyView(
        version=str(info.get("version", "")),
        state=str(info.get("state", "")),
        uptime_s=seconds(info.get("uptime_current_epoch"), 0),
        hosts={
            str(one.get("name")): [host(status) for status in one.get("host_statuses", ())]
            for one in clusters.get("cluster_statuses", ())
        },
        filters=filters,
        routes=[route(one) for one in walk(dump) if isinstance(one.get("route"), dict)],
        steerable=frozenset(
            str(one["name"])
            for one in walk(dump)
            if "load_balancing_policy" in one and "name" in one and steers(one)
        ),
        runtime={
            name: str(entry.get("final_value", ""))
            for name, entry in runtime.get("entries", {}).items()
            if name.startswith("weighbridge.")
        },
        counters=counters(stats),
    )


def is_ext_proc(entry: Mapping[str, Any]) -> bool:
    """Whether an object of the dump is an ext_proc filter."""
    return type_of(entry.get("typed_config")) == EXT_PROC_TYPE


def walk(node: object) -> Iterator[dict[str, Any]]:
    """All objects within a JSON value, itself first."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def type_of(config: object) -> str:
    """A packed message's type."""
    if not isinstance(config, dict):
        return ""
    return str(config.get("@type", "")).rpartition("/")[2]


def host(status: Mapping[str, Any]) -> Host:
    """A host of `/clusters`."""
    address = status.get("address", {})
    socket = address.get("socket_address")
    where = str(address.get("pipe", {}).get("path", ""))
    if socket is not None:
        name = str(socket.get("address", ""))
        shown = f"[{name}]" if ":" in name else name
        where = f"{shown}:{socket.get('port_value', 0)}"
    health = status.get("health_status", {})
    wrong = sorted(key for key, value in health.items() if value is True)
    if health.get("eds_health_status", "HEALTHY") not in {"HEALTHY", "UNKNOWN"}:
        wrong.append(str(health["eds_health_status"]).lower())
    return Host(where, not wrong, ", ".join(wrong))


def ext_proc(entry: Mapping[str, Any]) -> ExtProc:
    """An HTTP filter's entry."""
    config = entry["typed_config"]
    grpc = config.get("grpc_service", {}).get("envoy_grpc", {})
    timeout = seconds(config.get("message_timeout"), MESSAGE_TIMEOUT)
    return ExtProc(
        name=str(entry.get("name", "")),
        cluster=str(grpc.get("cluster_name", "")),
        disabled=bool(entry.get("disabled", False)),
        observes=bool(config.get("observability_mode", False)),
        message_timeout_s=timeout,
        max_message_timeout_s=seconds(config.get("max_message_timeout"), 0),
        request_body_mode=str(config.get("processing_mode", {}).get("request_body_mode", "NONE")),
    )


def route(entry: Mapping[str, Any]) -> RouteView:
    """A route's entry."""
    action = entry["route"]
    per_filter = entry.get("typed_per_filter_config", {})
    off = {
        name
        for name, config in per_filter.items()
        if type_of(config) == PER_ROUTE_TYPE and config.get("disabled")
    }
    return RouteView(
        cluster=str(action.get("cluster", "")),
        timeout_s=seconds(action.get("timeout"), ROUTE_TIMEOUT),
        filters_off=frozenset(off),
        filters_on=frozenset(per_filter) - off,
        has_fraction="runtime_fraction" in entry.get("match", {}),
        body_limit=body_limit(entry.get("request_body_buffer_limit")),
    )


def body_limit(text: object) -> int | None:
    """A number of bytes as JSON has it: 64 bits are text."""
    try:
        return int(str(text))
    except ValueError:
        return None


def steers(cluster: Mapping[str, Any]) -> bool:
    """Whether a cluster takes the host that a header or metadata names."""
    return any(
        type_of(one.get("typed_config")) == OVERRIDE_HOST_TYPE
        for one in walk(cluster["load_balancing_policy"])
    )


def counters(stats: Mapping[str, Any]) -> dict[str, int]:
    """The filters' own counters, over all listeners."""
    found = dict.fromkeys(EXT_PROC_COUNTERS, 0)
    for one in stats.get("stats", ()):
        name = str(one.get("name", "")).rpartition(".")[2]
        if name in found and isinstance(one.get("value"), int):
            found[name] += one["value"]
    return found


def seconds(text: object, default: float) -> float:
    """A duration as JSON has it (`"0.25s"`), s."""
    try:
        return float(str(text).removesuffix("s"))
    except ValueError:
        return default
