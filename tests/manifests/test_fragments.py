"""Mesh fragments: every object fits its published schema, every filter is accepted by Envoy."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.schema import problems, read
from weighbridge.config import load
from weighbridge.envoy import binary
from weighbridge.envoy.bootstrap import render

ROOT = Path(__file__).parents[2]
ENVOY = ROOT / "envoy"
FRAGMENTS = sorted(
    file
    for folder in ("istio", "envoy-gateway", "kgateway", "ai-gateway")
    for file in (ENVOY / folder).glob("*.yaml")
)
DESTINATION = "x-gateway-destination-endpoint"


def rendered() -> dict[str, Any]:
    config = load(ENVOY / "standalone" / "weighbridge.yaml")
    content: dict[str, Any] = yaml.safe_load(render(config))
    return content


def manager(bootstrap: dict[str, Any]) -> dict[str, Any]:
    listener = bootstrap["static_resources"]["listeners"][0]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def named(things: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(thing for thing in things if thing["name"] == name)


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


def test_plain_fragment_makes_any_envoy_choose_by_the_sidecar() -> None:
    fragment = yaml.safe_load((ENVOY / "plain" / "fragment.yaml").read_text())
    bootstrap = rendered()
    filters = manager(bootstrap)["http_filters"]
    router = filters.pop()
    clusters = bootstrap["static_resources"]["clusters"]
    # It is what is rendered, so that the same tests through a real Envoy speak for it.
    assert fragment["http_filters"] == filters
    replicas = named(clusters, "replicas")
    assert fragment["load_balancing_policy"] == replicas["load_balancing_policy"]
    assert fragment["clusters"] == [named(clusters, "weighbridge")]
    route = next(
        one["route"]
        for one in manager(bootstrap)["route_config"]["virtual_hosts"][0]["routes"]
        if one["match"].get("prefix") == "/v1/"
    )
    assert {key: route[key] for key in fragment["route"]} == fragment["route"]
    # And somebody's own Envoy takes it.
    own = {
        "static_resources": {
            "listeners": copy.deepcopy(bootstrap["static_resources"]["listeners"]),
            "clusters": [
                {
                    "name": "replicas",
                    "type": "STRICT_DNS",
                    "load_assignment": replicas["load_assignment"],
                    "load_balancing_policy": fragment["load_balancing_policy"],
                },
                *fragment["clusters"],
            ],
        }
    }
    own_manager = manager(own)
    own_manager["http_filters"] = [*fragment["http_filters"], router]
    own_manager["route_config"] = {
        "virtual_hosts": [
            {
                "name": "own",
                "domains": ["*"],
                "routes": [
                    {
                        "match": {"prefix": "/"},
                        "route": {"cluster": "replicas", **fragment["route"]},
                    }
                ],
            }
        ]
    }
    binary.validate_text(binary.find(), yaml.safe_dump(own), ".yaml")


def test_istio_patches_are_the_rendered_filters_and_envoy_takes_them() -> None:
    bootstrap = rendered()
    envoy_filter = next(
        thing
        for thing in read(ENVOY / "istio" / "envoyfilter.yaml")
        if thing["kind"] == "EnvoyFilter"
    )
    patches = envoy_filter["spec"]["configPatches"]
    sidecar = "outbound|9002||weighbridge.inference.svc.cluster.local"
    inserted = [one["patch"]["value"] for one in patches if one["applyTo"] == "HTTP_FILTER"]
    expected = manager(bootstrap)["http_filters"][:-1]
    for one in expected:
        if "grpc_service" in one["typed_config"]:
            one["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = sidecar
    assert inserted == expected
    # Envoy, with the clusters as Istio names them and the patches merged in.
    clusters = bootstrap["static_resources"]["clusters"]
    for patch in patches:
        if patch["applyTo"] == "CLUSTER":
            name = patch["match"]["cluster"]["name"]
            whose = "weighbridge" if name == sidecar else "replicas"
            named(clusters, whose).update(patch["patch"]["value"])
    named(clusters, "weighbridge")["name"] = sidecar
    manager(bootstrap)["http_filters"][:-1] = inserted
    binary.validate_text(binary.find(), yaml.safe_dump(bootstrap), ".yaml")


def test_no_fragment_lets_a_client_name_its_replica() -> None:
    text = (ENVOY / "envoy-gateway" / "policies.yaml").read_text()
    client = next(
        thing for thing in yaml.safe_load_all(text) if thing["kind"] == "ClientTrafficPolicy"
    )
    assert client["spec"]["headers"]["earlyRequestHeaders"]["remove"] == [DESTINATION]
