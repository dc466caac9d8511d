"""The chart's life on a real API server: installed, changed, rolled back, taken away."""

import asyncio
from pathlib import Path

import pytest
import yaml

from tests.e2e.harness import until
from tests.manifests.test_chart import EVERYTHING
from tests.mesh.fleet import CHART, Fleet, Sidecar
from tests.mesh.planes import NAMESPACE, REPLICAS, Refused

pytestmark = pytest.mark.asyncio(loop_scope="session")

RELEASE = "another-weighbridge"
SELECTOR = f"app.kubernetes.io/instance={RELEASE}"
KINDS = (
    "configmaps,deployments,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets,"
    "networkpolicies,inferencepools,servicemonitors,prometheusrules,scaledobjects"
)


async def test_a_release_is_installed_upgraded_rolled_back_and_taken_away(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.helm("lint", "--strict", str(CHART))
    plain = ("--values", str(fleet.values()))
    told = fleet.helm("install", RELEASE, str(CHART), *plain)
    assert "port-forward deploy/another-weighbridge 9005:9005" in told
    assert kinds(fleet) == {
        "ConfigMap",
        "Deployment",
        "Service",
        "ServiceAccount",
        "Role",
        "RoleBinding",
    }
    everything = tmp_path / "everything.yaml"
    everything.write_text(EVERYTHING)
    fleet.helm("upgrade", RELEASE, str(CHART), *plain, "--values", str(everything))
    assert kinds(fleet) >= {
        "InferencePool",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PrometheusRule",
        "ScaledObject",
        "ServiceMonitor",
    }
    fleet.helm("rollback", RELEASE, "1")
    assert "InferencePool" not in kinds(fleet)
    # Bills are kept.
    assert "another-weighbridge-usage" in claims(fleet)
    fleet.helm("uninstall", RELEASE)
    assert kinds(fleet) == set()
    assert "another-weighbridge-usage" in claims(fleet)
    fleet.api.kubectl("-n", NAMESPACE, "delete", "--wait=false", "pvc", f"{RELEASE}-usage")


async def test_values_that_are_wrong_are_refused_before_anything_is_made(fleet: Fleet) -> None:
    with pytest.raises(Refused, match="failureMode"):
        fleet.helm("install", RELEASE, str(CHART), "--set", "inferencePool.failureMode=Open")
    assert kinds(fleet) == set()


async def test_a_change_of_the_values_is_followed(fleet: Fleet, directory: Path) -> None:
    """What the kubelet would do to the mounted file is done here by hand."""
    sidecar = fleet.sidecars[0]
    content = yaml.safe_load(fleet.values().read_text())
    content["config"]["default_output_tokens"] = 77
    changed = directory / "changed.yaml"
    changed.write_text(yaml.safe_dump(content))
    fleet.helm("upgrade", "weighbridge", str(CHART), "--values", str(changed))
    Sidecar(fleet.api, fleet.family, directory, 0)
    log = directory / f"{sidecar.name}.log"
    await until(lambda: "reloaded" in log.read_text())
    fleet.install_again()
    Sidecar(fleet.api, fleet.family, directory, 0)
    await asyncio.sleep(1)
    assert {f"{one}:8000" for one in REPLICAS} == (await sidecar.states()).keys()


def kinds(fleet: Fleet) -> set[str]:
    """What the server has of the release."""
    return {one["kind"] for one in fleet.api.get(KINDS, "-l", SELECTOR)["items"]}


def claims(fleet: Fleet) -> set[str]:
    """The volumes' claims."""
    return {one["metadata"]["name"] for one in fleet.api.get("pvc")["items"]}
