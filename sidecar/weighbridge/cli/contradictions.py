"""Where Envoy's view and the sidecar's contradict each other: one line each, with what to do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weighbridge.address import UnixPath, parse_listen
from weighbridge.admin.autoscale import OPEN_STATES
from weighbridge.config.file import MESSAGE_ROOM
from weighbridge.config.tuning import PREFIX
from weighbridge.envoy.view import EnvoyView, ExtProc, Host, RouteView

# More than a wait for admission: for the answer's way, s.
WAIT_MARGIN = 1.0
# Answers of language models often take longer than this, s.
SHORT_ROUTE = 60.0
SHORT_MESSAGE = 0.1
# Envoy's body modes in which a client can stall a request or keep it from the sidecar, and why.
LOSSY_MODES = {
    "BUFFERED_PARTIAL": "a body that ends as it passes the buffer gets no answer, and one with "
    "trailers may reach a replica twice; BUFFERED is safe",
    "STREAMED": "a body that pauses or ends with trailers runs into message_timeout and goes on "
    "unweighed; BUFFERED is safe",
}


@dataclass(frozen=True, slots=True)
class Contradiction:
    """One contradiction."""

    code: str
    subject: str
    what: str


def contradictions(status: Mapping[str, Any], envoy: EnvoyView) -> list[Contradiction]:
    """All of them, the gravest first."""
    cluster = replica_cluster(status, envoy)
    return [
        *of_configuration(status),
        *of_filters(status, envoy, cluster),
        *of_replicas(status, envoy, cluster),
        *of_routes(envoy, cluster),
        *of_runtime(status, envoy),
    ]


def is_switched_off(one: ExtProc, routes: Sequence[RouteView]) -> bool:
    """Whether no route asks the filter."""
    if one.disabled and not any(one.name in route.filters_on for route in routes):
        return True
    return bool(routes) and all(one.name in route.filters_off for route in routes)


def of_configuration(status: Mapping[str, Any]) -> Iterator[Contradiction]:
    """The file says one thing, and another is in force."""
    found = status.get("config") or {}
    if found.get("refused"):
        yield Contradiction("configuration_refused", found["hash"], found["refused"])


def replica_cluster(status: Mapping[str, Any], envoy: EnvoyView) -> str | None:
    """Envoy's cluster that has most of the sidecar's replicas."""
    ours = {replica["endpoint"] for replica in status["replicas"]}
    shared = {
        name: sum(host.address in ours for host in hosts) for name, hosts in envoy.hosts.items()
    }
    best = max(shared, key=lambda name: shared[name], default=None)
    return best if best is not None and shared[best] else None


def own_filters(status: Mapping[str, Any], envoy: EnvoyView) -> list[ExtProc]:
    """The filters that ask this sidecar, told by the port or socket that it listens on."""
    where = parse_listen(status["settings"]["listen"])

    def is_ours(host: Host) -> bool:
        if isinstance(where, UnixPath):
            return host.address == where.path
        return host.address.rpartition(":")[2] == str(where.port)

    clusters = {name for name, hosts in envoy.hosts.items() if any(map(is_ours, hosts))}
    return [one for one in envoy.filters if one.cluster in clusters]


def of_filters(
    status: Mapping[str, Any], envoy: EnvoyView, cluster: str | None
) -> Iterator[Contradiction]:
    """The filter that asks for decisions: there, switched on, patient enough."""
    settings = status["settings"]
    asking = [one for one in own_filters(status, envoy) if not one.observes]
    if not asking:
        yield Contradiction(
            "filter_missing",
            settings["listen"],
            "no ext_proc filter of Envoy asks this sidecar: add it to the listener",
        )
    for one in asking:
        routes = [route for route in envoy.routes if route.cluster == cluster]
        if is_switched_off(one, routes):
            yield Contradiction(
                "filter_disabled", one.name, "it is switched off for every route to the replicas"
            )
        for host in envoy.hosts.get(one.cluster, ()):
            if not host.healthy:
                yield Contradiction(
                    "sidecar_unhealthy",
                    host.address,
                    f"Envoy leaves the sidecar out ({host.why}): requests go on without it",
                )
        if one.message_timeout_s < SHORT_MESSAGE:
            yield Contradiction(
                "timeout_too_small",
                one.name,
                f"message_timeout {one.message_timeout_s:g} s: a busy moment of the sidecar makes "
                "Envoy go on alone; 1 s is a good value",
            )
        if one.request_body_mode in LOSSY_MODES:
            yield Contradiction(
                "body_mode_loses",
                one.name,
                f"request bodies are {one.request_body_mode}: {LOSSY_MODES[one.request_body_mode]}",
            )
        most = settings["max_message_bytes"]
        limit = max((route.body_limit or 0 for route in routes), default=0)
        if one.request_body_mode == "BUFFERED" and limit + MESSAGE_ROOM > most:
            yield Contradiction(
                "body_limits",
                one.name,
                f"a route buffers bodies of {limit} bytes and listen.max_message_bytes is {most}: "
                f"larger bodies than {max(most - MESSAGE_ROOM, 0)} may be refused with 413",
            )
        wait = settings["max_wait_ms"] / 1000 + WAIT_MARGIN
        if settings["admission_enabled"] and one.max_message_timeout_s < wait:
            yield Contradiction(
                "timeout_too_small",
                one.name,
                f"max_message_timeout {one.max_message_timeout_s:g} s: requests may wait for "
                f"admission until {wait:g} s; make it longer",
            )
    if envoy.runtime.get(f"{PREFIX}weighed_percent") == "0":
        yield Contradiction(
            "filter_disabled", f"{PREFIX}weighed_percent", "is 0: no request is weighed"
        )


def of_replicas(
    status: Mapping[str, Any], envoy: EnvoyView, cluster: str | None
) -> Iterator[Contradiction]:
    """Replicas that only one knows, or that only one thinks well of."""
    hosts = {host.address: host for host in envoy.hosts.get(cluster or "", ())}
    ours = {replica["endpoint"]: replica for replica in status["replicas"]}
    if cluster is not None and cluster not in envoy.steerable:
        yield Contradiction(
            "not_steerable",
            cluster,
            "the cluster has no override_host policy: Envoy does not take what the sidecar names",
        )
    for endpoint, replica in ours.items():
        host = hosts.get(endpoint)
        if host is None:
            yield Contradiction(
                "replica_unknown_to_envoy",
                endpoint,
                "the sidecar may name it, and no cluster with its other replicas has it",
            )
        elif host.healthy != (replica["state"] in OPEN_STATES):
            envoy_says = "healthy" if host.healthy else f"unhealthy ({host.why})"
            yield Contradiction(
                "health_disagrees",
                endpoint,
                f"Envoy says {envoy_says}, the sidecar says {replica['state']}",
            )
    for endpoint in hosts.keys() - ours.keys():
        yield Contradiction(
            "replica_unknown_to_sidecar",
            endpoint,
            f"it is in Envoy's cluster {cluster}: the sidecar never names it",
        )


def of_routes(envoy: EnvoyView, cluster: str | None) -> Iterator[Contradiction]:
    """Routes that cut answers off."""
    for timeout in sorted({one.timeout_s for one in envoy.routes if one.cluster == cluster}):
        if 0 < timeout < SHORT_ROUTE:
            yield Contradiction(
                "timeout_too_small",
                cluster or "",
                f"a route to the replicas cuts answers off after {timeout:g} s; 0 is no limit",
            )


def of_runtime(status: Mapping[str, Any], envoy: EnvoyView) -> Iterator[Contradiction]:
    """Runtime keys that are set in Envoy and not taken by the sidecar."""
    runtime = status["runtime"]
    for name, text in sorted(envoy.runtime.items()):
        if name in runtime["ignored"]:
            what = f"is ignored: {runtime['ignored'][name]}"
        elif text and name not in runtime["set"]:
            what = f"is '{text}' in Envoy, and the sidecar does not follow {runtime['address']}"
        else:
            continue
        yield Contradiction("runtime_not_taken", name, what)
