"""Fixtures: an API server with the published CRDs, replicas and a sidecar, once for all tests."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.mesh import compatibility
from tests.mesh.fleet import Fleet
from tests.mesh.gateways import CERTIFICATES
from tests.mesh.planes import CRDS, NAMESPACE, PLANES, Api, missing
from weighbridge.lab.processes import Family

OUTCOMES: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers what ran, for docs/compatibility.md and the table at the end."""
    name = report.nodeid.split("::")[-1]
    if report.when == "call" or report.outcome != "passed":
        OUTCOMES[name] = report.outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table of what ran."""
    compatibility.record(PLANES, OUTCOMES)
    terminalreporter.section("what ran")
    for name, outcome in OUTCOMES.items():
        terminalreporter.write_line(f"{outcome:8} {name}")


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
