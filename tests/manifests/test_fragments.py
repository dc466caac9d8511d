"""Mesh fragments: every object fits its published schema, every filter is accepted by Envoy."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import fragments
from tests.manifests.fragments import bootstrap, cluster, manager
from tests.manifests.schema import problems, read
from weighbridge.envoy import binary

ROOT = Path(__file__).parents[2]
ENVOY = ROOT / "envoy"
FRAGMENTS = sorted(
    file
    for folder in ("istio", "envoy-gateway", "kgateway", "ai-gateway")
    for file in (ENVOY / folder).glob("*.yaml")
)
DESTINATION = "x-gateway-destination-endpoint"


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


def test_no_fragment_lets_a_client_name_its_replica() -> None:
    text = (ENVOY / "envoy-gateway" / "policies.yaml").read_text()
    client = next(
        thing for thing in yaml.safe_load_all(text) if thing["kind"] == "ClientTrafficPolicy"
    )
    assert client["spec"]["headers"]["earlyRequestHeaders"]["remove"] == [DESTINATION]
