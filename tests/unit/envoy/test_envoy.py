"""Envoy's configuration: a real Envoy accepts it, and it says what the sidecar relies on."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from weighbridge.config.envoy import BodyMode
from weighbridge.config.file import Config
from weighbridge.config.reading import load
from weighbridge.envoy import binary
from weighbridge.envoy.bootstrap import render
from weighbridge.envoy.repeats import repeats_for
from weighbridge.errors import RefusedError

REPLICAS = [{"endpoint": f"10.0.0.{n}:8000", "profile": "p"} for n in range(1, 4)]


def config(**envoy: object) -> Config:
    return Config.model_validate({"replicas": REPLICAS, "envoy": envoy})


def parsed(of: Config) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(render(of))
    return content


def manager(content: dict[str, Any]) -> dict[str, Any]:
    listener = content["static_resources"]["listeners"][0]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def cluster(content: dict[str, Any], name: str) -> dict[str, Any]:
    clusters: list[dict[str, Any]] = content["static_resources"]["clusters"]
    return next(one for one in clusters if one["name"] == name)


@pytest.mark.parametrize("mode", get_args(BodyMode))
def test_envoy_accepts_every_body_mode(mode: BodyMode) -> None:
    binary.validate_text(binary.find(), render(config(body_mode=mode)), ".yaml")


@pytest.mark.parametrize("address", ["unix:/run/w.sock", "[::1]:9002", "sidecar.local:9002"])
def test_envoy_accepts_every_kind_of_sidecar_address(address: str) -> None:
    of = Config.model_validate({"replicas": REPLICAS, "listen": {"address": address}})
    binary.validate_text(binary.find(), render(of), ".yaml")


def test_envoy_accepts_an_access_log_and_json() -> None:
    of = config(access_log="/dev/stdout")
    binary.validate_text(binary.find(), render(of, "json"), ".json")
    assert json.loads(render(of, "json")) == yaml.safe_load(render(of))


def test_the_committed_files_are_what_the_renderer_writes(repository: Path) -> None:
    folder = repository / "envoy" / "standalone"
    rendered = render(load(folder / "weighbridge.yaml"))
    assert (folder / "envoy.yaml").read_text() == rendered, (
        "run: weighbridge envoy render -c envoy/standalone/weighbridge.yaml "
        "-o envoy/standalone/envoy.yaml"
    )
    binary.validate(binary.find(), folder / "envoy.yaml")


def test_what_joins_a_reply_to_its_request_is_the_sidecar_s_and_ends_at_envoy() -> None:
    manager_of = manager(parsed(config()))
    strip, ext_proc = (one["typed_config"] for one in manager_of["http_filters"][:2])
    header = "x-weighbridge-request"
    removed = [rule["remove"] for rule in strip["mutations"]["request_mutations"]]
    assert header in removed, "clients send none"
    rules = ext_proc["mutation_rules"]
    assert re.fullmatch(rules["allow_expression"]["regex"], header), "the sidecar may set it"
    routes = manager_of["route_config"]["virtual_hosts"][0]["routes"]
    to_replicas = [route for route in routes if "route" in route]
    assert to_replicas
    assert all(header in route["request_headers_to_remove"] for route in to_replicas)


def test_clients_cannot_steer_and_a_dead_sidecar_is_no_error() -> None:
    filters = manager(parsed(config()))["http_filters"]
    names = [one["name"] for one in filters]
    assert names == [
        "envoy.filters.http.header_mutation",
        "envoy.filters.http.ext_proc",
        "envoy.filters.http.ext_proc/metering",
        "envoy.filters.http.router",
    ]
    strip, ext_proc = filters[0]["typed_config"], filters[1]["typed_config"]
    removed = [rule["remove"] for rule in strip["mutations"]["request_mutations"]]
    assert "x-gateway-destination-endpoint" in removed
    assert ext_proc["failure_mode_allow"] is True
    assert ext_proc["metadata_options"]["receiving_namespaces"] == {"untyped": ["envoy.lb"]}


def test_metering_waits_for_nothing_and_may_be_left_out() -> None:
    metering = manager(parsed(config()))["http_filters"][2]["typed_config"]
    assert metering["observability_mode"] is True
    assert metering["processing_mode"]["response_body_mode"] == "STREAMED"
    without = render(config(metering=False))
    assert "metering" not in without
    binary.validate_text(binary.find(), without, ".yaml")


def test_no_mode_is_rendered_in_which_envoy_loses_bodies() -> None:
    modes = {"none": "NONE", "buffered": "BUFFERED", "full_duplex_streamed": "FULL_DUPLEX_STREAMED"}
    # What older files name.
    modes |= {"buffered_partial": "BUFFERED", "streamed": "FULL_DUPLEX_STREAMED"}
    for mode, rendered in modes.items():
        ext_proc = manager(parsed(config(body_mode=mode)))["http_filters"][1]["typed_config"]
        assert ext_proc["processing_mode"].get("request_body_mode", "NONE") == rendered
    default = manager(parsed(config()))["http_filters"][1]["typed_config"]["processing_mode"]
    assert default["request_body_mode"] == "BUFFERED"
    assert default["response_header_mode"] == "SEND"


def body_limits(of: Config) -> list[int]:
    routes = manager(parsed(of))["route_config"]["virtual_hosts"][0]["routes"]
    return [
        one["request_body_buffer_limit"] for one in routes if "request_body_buffer_limit" in one
    ]


def test_what_envoy_buffers_of_a_body_fits_a_message_to_the_sidecar() -> None:
    default = Config()
    room = default.listen.max_message_bytes - (1 << 20)
    assert body_limits(default) == [16 << 20] * 2
    assert body_limits(default)[0] < room
    small = Config.model_validate({"listen": {"max_message_bytes": 4 << 20}})
    assert body_limits(small) == [2 << 20] * 2
    with pytest.raises(ValueError, match=r"body_buffer_bytes: 4194304 .*max_message_bytes"):
        Config.model_validate(
            {"listen": {"max_message_bytes": 4 << 20}, "envoy": {"body_buffer_bytes": 4 << 20}}
        )


def test_bodies_that_say_they_are_too_long_to_be_buffered_are_streamed() -> None:
    of = config(body_buffer_bytes=1 << 20)
    routes = manager(parsed(of))["route_config"]["virtual_hosts"][0]["routes"]
    long, weighed = [one for one in routes if "runtime_fraction" in one["match"]]
    [header] = long["match"]["headers"]
    assert header["name"] == "content-length"
    assert header["range_match"]["start"] == str((1 << 20) + 1)
    override = long["typed_per_filter_config"]["envoy.filters.http.ext_proc"]
    mode = override["overrides"]["processing_mode"]
    assert mode["request_body_mode"] == "FULL_DUPLEX_STREAMED"
    assert mode["request_trailer_mode"] == "SEND"
    # Envoy would keep what it passed on for a retry, and send it again with the trailers.
    assert "retry_policy" not in long["route"]
    assert "headers" not in weighed["match"]


def test_only_inference_routes_reach_the_replicas() -> None:
    routes = manager(parsed(config()))["route_config"]["virtual_hosts"][0]["routes"]
    weighed, rest = [one for one in routes if "retry_policy" in one.get("route", {})]
    fraction = {
        "default_value": {"numerator": 100},
        "runtime_key": "weighbridge.weighed_percent",
    }
    assert weighed["match"] == {"prefix": "/v1/", "runtime_fraction": fraction}
    assert rest["match"] == {"prefix": "/v1/"}
    # What Envoy answers before it knows a route, and these routes, pass no filter of the sidecar.
    filters = manager(parsed(config()))["http_filters"]
    off = {one["name"] for one in filters if one.get("disabled")}
    assert set(weighed["typed_per_filter_config"]) == off
    assert len(off) == 2
    assert "typed_per_filter_config" not in rest, "the sidecar is not asked"
    # No answer is cut off after Envoy's 15 s.
    assert weighed["route"]["timeout"] == rest["route"]["timeout"] == "0s"


def test_replicas_are_listed_and_chosen_by_the_header() -> None:
    replicas = cluster(parsed(config()), "replicas")
    hosts = replicas["load_assignment"]["endpoints"][0]["lb_endpoints"]
    sockets = [host["endpoint"]["address"]["socket_address"] for host in hosts]
    assert [socket["address"] for socket in sockets] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    policy = replicas["load_balancing_policy"]["policies"][0]["typed_extension_config"]
    assert policy["typed_config"]["override_host_sources"] == [
        {"header": "x-gateway-destination-endpoint"}
    ]
    fallback = policy["typed_config"]["fallback_policy"]["policies"][0]["typed_extension_config"]
    assert fallback["name"] == "envoy.load_balancing_policies.least_request"


def test_a_config_that_envoy_refuses_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("static_resources: {listeners: [{name: x, adress: 1}]}\n")
    with pytest.raises(RefusedError) as caught:
        binary.validate(binary.find(), file)
    assert str(caught.value).startswith(f"{file}: envoy refuses it: ")
    assert "adress" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_envoy_is_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="there is no file"):
        binary.find(tmp_path / "envoy")


WITHOUT_ENVOY = """
import sys


class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "envoy":
            raise ImportError(name)


sys.meta_path.insert(0, Without())
from weighbridge.cli.main import main

main()
"""


@pytest.mark.parametrize("command", [["up", "--exit"], ["envoy", "validate", "envoy.yaml"]])
def test_where_no_envoy_is_installed_one_line_says_how_to_get_it(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "envoy.yaml").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ENVOY, *command],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("weighbridge: Envoy is missing: install weighbridge[demo], ")


@pytest.mark.parametrize(("replicas", "repeats"), [(0, 3), (1, 1), (2, 1), (3, 2), (4, 3), (40, 3)])
def test_no_replica_of_a_known_fleet_is_asked_twice(replicas: int, repeats: int) -> None:
    assert repeats_for(replicas) == repeats


def test_repeats_have_a_budget_and_connections_and_memory_a_bound() -> None:
    content = parsed(config(max_connections=100, max_heap_bytes=1 << 30))
    thresholds = cluster(content, "replicas")["circuit_breakers"]["thresholds"][0]
    assert thresholds["retry_budget"]["min_retry_concurrency"] < 100
    monitors = {
        one["name"]: one["typed_config"] for one in content["overload_manager"]["resource_monitors"]
    }
    heap = monitors["envoy.resource_monitors.fixed_heap"]
    connections = monitors["envoy.resource_monitors.global_downstream_max_connections"]
    assert heap["max_heap_size_bytes"] == str(1 << 30)
    assert connections["max_active_downstream_connections"] == "100"
    actions = {one["name"] for one in content["overload_manager"]["actions"]}
    assert "envoy.overload_actions.reset_high_memory_stream" in actions
    # An unfinished body ends, though its client may be silent for long while it is answered.
    assert manager(content)["request_timeout"] == "300s"


def test_nothing_is_rendered_that_an_older_envoy_does_not_know() -> None:
    text = render(config())
    # From 1.38 on alone.
    assert "selected_host_key" not in text
    # Up to 1.38 a regex may compile to 100 instructions; RE2 takes about one a character.
    regex = manager(yaml.safe_load(text))["http_filters"][1]["typed_config"]["mutation_rules"]
    assert len(regex["allow_expression"]["regex"]) < 90


def test_envoy_accepts_cors() -> None:
    cors = {"origins": ["https://chat.example", "*"]}
    binary.validate_text(binary.find(), render(config(cors=cors)), ".yaml")
