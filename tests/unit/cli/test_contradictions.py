"""Contradictions between Envoy's view and the sidecar's: each is found, and none is made up."""

from dataclasses import replace
from typing import Any

from weighbridge.cli.contradictions import contradictions
from weighbridge.envoy.view import EnvoyView, ExtProc, Host, RouteView, host, seconds, view

ASKING = ExtProc("ext_proc", "weighbridge", False, False, 1.0, 120.0)
ENVOY = EnvoyView(
    version="1.40.0",
    state="LIVE",
    uptime_s=10,
    hosts={
        "weighbridge": [Host("127.0.0.1:9002", True, "")],
        "replicas": [Host("10.0.0.1:80", True, ""), Host("10.0.0.2:80", True, "")],
    },
    filters=[ASKING],
    routes=[RouteView("replicas", 0.0, frozenset(), True)],
    steerable=frozenset({"replicas"}),
    runtime={},
)


def status(**states: str) -> dict[str, Any]:
    """The sidecar's, with replicas `r1`, `r2`… in these states."""
    states = states or {"r1": "healthy", "r2": "healthy"}
    return {
        "settings": {
            "listen": "127.0.0.1:9002",
            "max_message_bytes": 18 << 20,
            "admission_enabled": True,
            "max_wait_ms": 30_000,
        },
        "replicas": [
            {"endpoint": f"10.0.0.{name[1:]}:80", "state": state} for name, state in states.items()
        ],
        "runtime": {"set": {}, "ignored": {}, "address": "127.0.0.1:9901"},
    }


def codes(envoy: EnvoyView, sidecar: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    return [(one.code, one.subject) for one in contradictions(sidecar or status(), envoy)]


def test_two_that_agree_have_none() -> None:
    assert codes(ENVOY) == []


def test_a_file_that_was_refused() -> None:
    refused = status() | {"config": {"hash": "ab", "refused": "replicas[0]: …"}}
    assert codes(ENVOY, refused) == [("configuration_refused", "ab")]
    taken = status() | {"config": {"hash": "ab", "refused": None}}
    assert codes(ENVOY, taken) == []


def test_a_replica_that_only_one_knows() -> None:
    found = codes(ENVOY, status(r1="healthy", r3="healthy"))
    assert found == [
        ("replica_unknown_to_envoy", "10.0.0.3:80"),
        ("replica_unknown_to_sidecar", "10.0.0.2:80"),
    ]


def test_health_on_which_they_disagree() -> None:
    sick = Host("10.0.0.2:80", False, "failed_active_health_check")
    hosts = {**ENVOY.hosts, "replicas": [ENVOY.hosts["replicas"][0], sick]}
    envoy = replace(ENVOY, hosts=hosts)
    assert codes(envoy) == [("health_disagrees", "10.0.0.2:80")]
    assert codes(envoy, status(r1="healthy", r2="ejected")) == []
    assert codes(ENVOY, status(r1="draining", r2="degraded")) == [
        ("health_disagrees", "10.0.0.1:80")
    ]


def test_a_body_mode_in_which_envoy_loses_bodies() -> None:
    for mode in ("BUFFERED_PARTIAL", "STREAMED"):
        lossy = replace(ASKING, request_body_mode=mode)
        assert codes(replace(ENVOY, filters=[lossy])) == [("body_mode_loses", "ext_proc")]
    for mode in ("NONE", "BUFFERED", "FULL_DUPLEX_STREAMED"):
        assert codes(replace(ENVOY, filters=[replace(ASKING, request_body_mode=mode)])) == []


def test_bodies_that_fit_envoy_and_no_message() -> None:
    buffers = replace(ASKING, request_body_mode="BUFFERED")
    for limit, found in ((16 << 20, []), (17 << 20, [("body_limits", "ext_proc")])):
        route = replace(ENVOY.routes[0], body_limit=limit)
        assert codes(replace(ENVOY, filters=[buffers], routes=[route])) == found


def test_a_filter_that_is_missing_or_off() -> None:
    assert codes(replace(ENVOY, filters=[])) == [("filter_missing", "127.0.0.1:9002")]
    observing = replace(ASKING, observes=True)
    assert codes(replace(ENVOY, filters=[observing])) == [("filter_missing", "127.0.0.1:9002")]
    off = replace(ASKING, disabled=True)
    assert codes(replace(ENVOY, filters=[off])) == [("filter_disabled", "ext_proc")]
    switched_on = replace(ENVOY.routes[0], filters_on=frozenset({"ext_proc"}))
    assert codes(replace(ENVOY, filters=[off], routes=[switched_on])) == []
    route = replace(ENVOY.routes[0], filters_off=frozenset({"ext_proc"}))
    assert codes(replace(ENVOY, routes=[route])) == [("filter_disabled", "ext_proc")]
    # A canary's second route may do without.
    assert codes(replace(ENVOY, routes=[*ENVOY.routes, route])) == []
    none = replace(ENVOY, runtime={"weighbridge.weighed_percent": "0"})
    sidecar = status()
    sidecar["runtime"]["set"]["weighbridge.weighed_percent"] = {"value": 0}
    assert codes(none, sidecar) == [("filter_disabled", "weighbridge.weighed_percent")]


def test_timeouts_that_are_too_small() -> None:
    for filters in (
        [replace(ASKING, message_timeout_s=0.05)],
        [replace(ASKING, max_message_timeout_s=10)],
    ):
        assert codes(replace(ENVOY, filters=filters)) == [("timeout_too_small", "ext_proc")]
    cut = replace(ENVOY.routes[0], timeout_s=15.0)
    assert codes(replace(ENVOY, routes=[cut])) == [("timeout_too_small", "replicas")]


def test_a_cluster_that_cannot_be_steered_and_a_sidecar_left_out() -> None:
    assert codes(replace(ENVOY, steerable=frozenset())) == [("not_steerable", "replicas")]
    gone = {**ENVOY.hosts, "weighbridge": [Host("127.0.0.1:9002", False, "failed")]}
    assert codes(replace(ENVOY, hosts=gone)) == [("sidecar_unhealthy", "127.0.0.1:9002")]


def test_runtime_keys_that_are_not_taken() -> None:
    runtime = {"weighbridge.samples": "999", "weighbridge.room_weight": "0.5"}
    envoy = replace(ENVOY, runtime=runtime)
    sidecar = status()
    sidecar["runtime"]["ignored"] = {"weighbridge.samples": "too much"}
    assert [subject for _, subject in codes(envoy, sidecar)] == [
        "weighbridge.room_weight",
        "weighbridge.samples",
    ]


def test_envoy_s_pages_are_read() -> None:
    address = {"socket_address": {"address": "::1", "port_value": 80}}
    assert host({"address": address}).address == "[::1]:80"
    sick = {"eds_health_status": "UNHEALTHY", "failed_active_health_check": True}
    assert host({"address": address, "health_status": sick}) == Host(
        "[::1]:80", False, "failed_active_health_check, unhealthy"
    )
    assert host({"address": {"pipe": {"path": "/run/x"}}}).address == "/run/x"
    assert (seconds("0.25s", 1), seconds(None, 1), seconds("soon", 1)) == (0.25, 1, 1)
    empty = view({}, {}, {}, {}, {})
    assert not empty.filters
    assert not empty.routes
