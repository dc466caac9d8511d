"""Fixtures: a picker alone for raw gRPC, and the stack of the end-to-end tests for gateways."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.e2e.conftest import TRANSPORTS, start, transport
from tests.e2e.harness import until
from weighbridge.lab.ports import LOOPBACK, find_free_run
from weighbridge.lab.processes import Family
from weighbridge.lab.stack import answers, fetch, weighbridge

__all__ = ["start", "transport"]

PROFILE = "llama-3.1-8b-fp8-h100"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
# Nobody listens there: what is chosen is all that is looked at.
REPLICAS = [f"192.0.2.{n}:8000" for n in range(1, 5)]


class Picker:
    """A sidecar that knows four replicas and asks none of them."""

    def __init__(self, family: Family, directory: Path, transport: str) -> None:
        self._family = family
        self._file = directory / "weighbridge.yaml"
        port = find_free_run(2)
        self.address = f"{LOOPBACK}:{port}"
        self.admin = f"http://{LOOPBACK}:{port + 1}"
        self.content: dict[str, Any] = {
            "listen": {"address": self.address, "transport": transport},
            "admin": {"address": f"{LOOPBACK}:{port + 1}"},
            "profiles": [PROFILE],
            "replicas": [{"endpoint": one, "profile": PROFILE} for one in REPLICAS],
            "health": {"enabled": False},
        }

    async def start(self, **changes: Any) -> None:
        """Starts it, with changes of its configuration."""
        self._file.write_text(yaml.safe_dump(self.content | changes))
        await self._family.start("serve", weighbridge("serve", "--config", str(self._file)))
        await answers(f"{self.admin}/readyz")

    async def in_flight(self) -> dict[str, int]:
        """Requests charged to each replica that carries any."""
        status = await fetch(f"{self.admin}/status")
        return {one["endpoint"]: one["requests"] for one in status["replicas"] if one["requests"]}

    async def settled(self) -> None:
        """Waits until no replica carries anything."""

        async def is_settled() -> bool:
            return not await self.in_flight()

        await until(is_settled)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def picker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Picker]:
    """One picker for all cases of a module, which leave nothing behind."""
    directory = tmp_path_factory.mktemp("picker")
    async with Family(directory) as family:
        found = Picker(family, directory, request.param)
        await found.start()
        await answers(f"{found.admin}/readyz")
        yield found
        await asyncio.wait_for(found.settled(), 20)
