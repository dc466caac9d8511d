"""All that we ship, asked of a real API server: its schemas and the rules that only it runs."""

from pathlib import Path

import pytest
import yaml

from tests.manifests.schema import read
from tests.manifests.test_fragments import FRAGMENTS, GATEWAYS, OLDER
from tests.mesh.planes import CRDS, ROOT, Api, Refused

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Its kinds are another project's, whose CRDs no registry serves.
SHIPPED = [
    *(file for file in FRAGMENTS if file.parent.name != "ai-gateway"),
    ROOT / "deploy" / "kubernetes" / "weighbridge.yaml",
    ROOT / "deploy" / "autoscaling" / "hpa.yaml",
    ROOT / "deploy" / "autoscaling" / "keda.yaml",
]
NEWEST = GATEWAYS[""]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: f"{file.parent.name}/{file.name}")
async def test_the_server_takes_what_is_shipped(api: Api, file: Path) -> None:
    dry(api, file)


async def test_envoy_gateways_oldest_release_takes_its_file_and_not_the_newest(api: Api) -> None:
    api.apply_file(CRDS / "oldest" / "envoy-gateway.yaml")
    try:
        dry(api, OLDER)
        with pytest.raises(Refused, match="shadowMode"):
            dry(api, NEWEST)
    finally:
        api.apply_file(CRDS / "envoy-gateway.yaml")
    # Where both are served, the file for older ones stays good.
    dry(api, OLDER)


async def test_a_rule_that_no_schema_knows_is_run(api: Api, tmp_path: Path) -> None:
    things = read(ROOT / "envoy" / "istio" / "envoyfilter.yaml")
    next(one for one in things if one["kind"] == "VirtualService")["spec"]["http"][0]["timeout"] = (
        "0s"
    )
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump_all(things))
    with pytest.raises(Refused, match="must be a valid duration greater than 1ms"):
        dry(api, file)


def dry(api: Api, file: Path) -> None:
    """Asks the server to take a file without keeping it."""
    api.kubectl(
        "--namespace=inference",
        "apply",
        "--server-side",
        "--dry-run=server",
        "--force-conflicts",
        "--validate=strict",
        "-f",
        str(file),
    )
