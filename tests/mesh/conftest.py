"""Fixtures: an API server with the published CRDs, replicas and a sidecar, once for all tests."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.mesh.fleet import Fleet
from tests.mesh.gateways import CERTIFICATES
from tests.mesh.planes import CRDS, NAMESPACE, Api, missing
from weighbridge.lab.processes import Family


def require(*names: str) -> None:
    """Ends all where programs or addresses are missing."""
    reason = missing(*names)
    if reason:
        pytest.exit(f"{reason}; run `make test-mesh`", returncode=2)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything writes its logs."""
    return tmp_path_factory.mktemp("mesh")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def family(directory: Path) -> AsyncIterator[Family]:
    """All processes, stopped at the end."""
    async with Family(directory) as found:
        yield found
    with contextlib.suppress(OSError):
        CERTIFICATES.rmdir()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def api(directory: Path, family: Family) -> Api:
    """An API server with all CRDs."""
    require("etcd", "kube-apiserver", "kubectl", "helm")
    found = Api(directory, family)
    await found.start()
    for file in sorted(CRDS.glob("*.yaml")):
        found.apply_file(file)
    found.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    found.namespace(NAMESPACE)
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fleet(api: Api, directory: Path, family: Family) -> Fleet:
    """Four replicas and the sidecar."""
    found = Fleet(api, family, directory)
    await found.start()
    return found
