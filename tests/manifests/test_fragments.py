"""Mesh fragments: every object fits its published schema, every filter is accepted by Envoy."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import fragments
from tests.manifests.fragments import bootstrap, cluster, manager
from tests.manifests.schema import problems, read
from weighbridge.config.file import Config
from weighbridge.envoy import binary
from weighbridge.envoy.listener import IDLE_TIMEOUT

ROOT = Path(__file__).parents[2]
ENVOY = ROOT / "envoy"
FRAGMENTS = sorted(
    file
    for folder in ("istio", "envoy-gateway", "kgateway", "ai-gateway")
    for file in (ENVOY / folder).glob("*.yaml")
    if file.name != "policies-1.5-to-1.8.yaml"
)
DESTINATION = "x-gateway-destination-endpoint"
# Envoy Gateway's releases, by the folder of their schemas, and the file for each.
NEWEST = ""
OLDER = ENVOY / "envoy-gateway" / "policies-1.5-to-1.8.yaml"
GATEWAYS = {NEWEST: ENVOY / "envoy-gateway" / "policies.yaml"} | {
    f"envoy-gateway-1.{minor}": OLDER for minor in range(5, 9)
}


@pytest.mark.parametrize("file", FRAGMENTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_object_fits_its_published_schema(file: Path) -> None:
    things = read(file)
    assert things
    assert [line for thing in things for line in problems(thing)] == []
    # The sidecar's service has one name and port in all of them, that of the chart.
    assert "weighbridge" in file.read_text()


def test_a_wrong_field_or_value_is_found() -> None:
    pool = next(
        thing
        for thing in read(ENVOY / "istio" / "inferencepool.yaml")
        if thing["kind"] == "InferencePool"
    )
    pool["spec"]["targetPort"] = 8000
    pool["spec"]["endpointPickerRef"]["failureMode"] = "Open"
    assert len(problems(pool)) == 2


@pytest.mark.parametrize("where", ["timeout", "perTryTimeout"])
def test_a_rule_that_only_an_api_server_asks_is_asked(where: str) -> None:
    [service] = [
        thing
        for thing in read(ENVOY / "istio" / "envoyfilter.yaml")
        if thing["kind"] == "VirtualService"
    ]
    [http] = service["spec"]["http"]
    (http if where == "timeout" else http["retries"])[where] = "0s"
    [problem] = problems(service)
    assert problem.endswith(f"{where}: must be a valid duration greater than 1ms")


def test_what_a_rule_asks_for_may_be_filled_in_by_a_default() -> None:
    gateway = next(thing for thing in read(GATEWAYS[NEWEST]) if thing["kind"] == "Gateway")
    gateway["spec"]["listeners"][0] |= {"protocol": "HTTPS", "tls": {}}
    [problem] = problems(gateway)
    assert "certificateRefs or options must be specified when mode is Terminate" in problem


@pytest.mark.parametrize("release", GATEWAYS)
def test_each_release_of_envoy_gateway_takes_its_file(release: str) -> None:
    found = [line for thing in read(GATEWAYS[release]) for line in problems(thing, release)]
    assert found == []


@pytest.mark.parametrize("release", [name for name in GATEWAYS if name != NEWEST])
def test_older_ones_would_not_take_the_newest(release: str) -> None:
    found = [line for thing in read(GATEWAYS[NEWEST]) for line in problems(thing, release)]
    assert any("shadowMode" in line for line in found)


@pytest.mark.parametrize("file", sorted(set(GATEWAYS.values())), ids=lambda file: file.name)
def test_envoy_gateway_is_told_what_its_defaults_are_too_small_for(file: Path) -> None:
    specs = {thing["kind"]: thing["spec"] for thing in read(file) if "spec" in thing}
    client, replicas = specs["ClientTrafficPolicy"], specs["BackendTrafficPolicy"]
    own = Config()
    assert client["connection"]["bufferLimit"] == f"{own.largest_buffered_body >> 20}Mi"
    assert client["timeout"]["http"]["streamIdleTimeout"] == f"{IDLE_TIMEOUT}s"
    filters = specs["EnvoyExtensionPolicy"]["extProc"]
    for breaker in (replicas["circuitBreaker"], *map(breaker_of, filters)):
        for most in ("maxConnections", "maxPendingRequests", "maxParallelRequests"):
            assert breaker[most] == own.listen.max_streams, most
    # Replies are read by one filter, and only where nothing waits for it is that another one.
    reading = [one for one in filters if one["processingMode"]["response"].get("body")]
    assert [one.get("shadowMode", False) for one in reading] == [len(filters) == 2]


def breaker_of(ext_proc: dict[str, Any]) -> dict[str, Any]:
    """The limits of calls to the sidecar."""
    found: dict[str, Any] = ext_proc["backendSettings"]["circuitBreaker"]
    return found


@pytest.mark.parametrize("path", fragments.FRAGMENTS)
def test_rendered_fragments_are_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text() == fragments.FRAGMENTS[path](), "make fragments"


def test_envoy_of_somebody_takes_the_plain_fragment() -> None:
    fragment = yaml.safe_load((ENVOY / "plain" / "fragment.yaml").read_text())
    own = bootstrap()
    replicas = {
        "name": "replicas",
        "type": "STRICT_DNS",
        "load_assignment": cluster(own, "replicas")["load_assignment"],
        **{key: fragment[key] for key in fragments.OF_CLUSTER},
    }
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "replicas", **fragment["route"]},
        **{key: fragment[key] for key in fragments.OF_ROUTE},
    }
    host = {"name": "own", "domains": ["*"], "routes": [route]}
    own["static_resources"]["clusters"] = [replicas, *fragment["clusters"]]
    router = manager(own)["http_filters"][-1]
    manager(own)["http_filters"] = [*fragment["http_filters"], router]
    manager(own)["route_config"] = {"virtual_hosts": [host]}
    binary.validate_text(binary.find(), yaml.safe_dump(own), ".yaml")


def test_envoy_takes_what_istio_makes_of_the_patches() -> None:
    tree = bootstrap()
    clusters = {
        fragments.ISTIO_SIDECAR: cluster(tree, "weighbridge"),
        fragments.ISTIO_REPLICAS: cluster(tree, "replicas"),
    }
    filters: list[dict[str, Any]] = []
    route = {"match": {"prefix": "/"}, "route": {"cluster": fragments.ISTIO_REPLICAS}}
    for patch in read(ENVOY / "istio" / "envoyfilter.yaml")[0]["spec"]["configPatches"]:
        value = patch["patch"]["value"]
        if patch["applyTo"] == "HTTP_FILTER":
            filters.append(value)
        elif patch["applyTo"] == "HTTP_ROUTE":
            route.update(value)
        elif patch["applyTo"] == "NETWORK_FILTER":
            manager(tree).update(value["typed_config"])
        else:
            clusters[patch["match"]["cluster"]["name"]].update(value)
    tree["static_resources"]["clusters"] = [{**one, "name": name} for name, one in clusters.items()]
    manager(tree)["http_filters"][:-1] = filters
    host = {"name": "own", "domains": ["*"], "routes": [route]}
    manager(tree)["route_config"] = {"virtual_hosts": [host]}
    binary.validate_text(binary.find(), yaml.safe_dump(tree), ".yaml")


# Older ones are named in ENVOYS, as many as are wanted, with colons between their paths.
BINARIES = [binary.find(), *(Path(one) for one in os.environ.get("ENVOYS", "").split(":") if one)]
WHOLE = ("compose/envoy.yaml", "plain/example.yaml", "standalone/envoy.yaml")


@pytest.mark.parametrize("envoy", BINARIES, ids=str)
@pytest.mark.parametrize("file", WHOLE)
def test_envoy_takes_every_whole_file(file: str, envoy: Path) -> None:
    binary.validate(envoy, ENVOY / file)


@pytest.mark.parametrize("file", [*WHOLE, "plain/fragment.yaml", "istio/envoyfilter.yaml"])
def test_the_sidecar_is_called_by_a_name_that_any_grpc_server_takes(file: str) -> None:
    calls = [
        call
        for thing in read(ENVOY / file)
        for call in named("envoy_grpc", thing)
        if "weighbridge" in call["cluster_name"] and "ads" not in call["cluster_name"]
    ]
    assert [call.get("authority") for call in calls] == ["weighbridge"] * 2


def named(key: str, tree: Any) -> Iterator[Any]:
    """Whatever stands under a key, at any depth."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from named(key, value)
    elif isinstance(tree, list):
        for value in tree:
            yield from named(key, value)


def test_no_fragment_lets_a_client_name_its_replica() -> None:
    for file in set(GATEWAYS.values()):
        client = next(thing for thing in read(file) if thing["kind"] == "ClientTrafficPolicy")
        assert client["spec"]["headers"]["earlyRequestHeaders"]["remove"] == [DESTINATION]
