"""Replicas, and sidecars that run from the chart as an API server has it."""

import json
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.e2e.harness import Reply, until, usage_of
from tests.mesh.planes import (
    NAMESPACE,
    REPLICAS,
    ROOT,
    SIDECARS,
    Api,
    Pod,
    endpoint_slice,
    program,
    service,
)
from weighbridge.config.profiles import load_profile, locate, write_faster
from weighbridge.lab.processes import Child, Family
from weighbridge.lab.stack import answers, fetch, weighbridge

CHART = ROOT / "deploy" / "helm" / "weighbridge"
RELEASE = "weighbridge"
SERVICE = "llama-3-1-8b"
PROFILE = "llama-3.1-8b-fp8-h100"
SPEED = 50.0
TENANT = "x-tenant-id"


class Sidecar:
    """One sidecar: the configuration that the chart wrote, at an address of its own."""

    def __init__(self, api: Api, family: Family, directory: Path, number: int) -> None:
        self.address = SIDECARS[number]
        self.admin = f"http://127.0.0.{number + 1}:9005"
        self.name = f"sidecar-{number}"
        self.usage = directory / f"usage-{number}.jsonl"
        self._family = family
        self._file = directory / f"weighbridge-{number}.yaml"
        self.pod = Pod(api, RELEASE, directory / f"account-{number}")
        config = api.get("configmap", RELEASE)["data"]["weighbridge.yaml"]
        # Every pod has an address and a loopback of its own.
        content = yaml.safe_load(config.replace("0.0.0.0:", f"{self.address}:"))
        content["admin"]["address"] = self.admin.removeprefix("http://")
        content["usage_log"] = {"path": str(self.usage)}
        self._file.write_text(yaml.safe_dump(content))

    async def start(self) -> Child:
        """Starts it and waits until it takes requests."""
        command = self.pod.command(weighbridge("serve", "--config", str(self._file)))
        child = await self._family.start(self.name, command, self.pod.environment)
        await answers(f"http://{self.address}:9006/readyz")
        return child

    def kill(self) -> None:
        """Ends it at once, as a node that is lost does."""
        self._family.running(self.name).kill()

    async def status(self) -> dict[str, Any]:
        """Its status page."""
        page: dict[str, Any] = await fetch(f"{self.admin}/status")
        return page

    async def states(self) -> dict[str, str]:
        """What it knows of each replica."""
        return {one["endpoint"]: one["state"] for one in (await self.status())["replicas"]}

    async def decisions(self) -> list[dict[str, Any]]:
        """All decisions that it keeps."""
        found: list[dict[str, Any]] = []
        after = 0
        while page := await fetch(f"{self.admin}/decisions?after={after}"):
            found += page
            after = max(one["number"] for one in page)
        return found

    async def settled(self) -> None:
        """Waits until nothing is in flight."""

        async def is_settled() -> bool:
            status = await self.status()
            return status["streams"] == 0 and not any(one["requests"] for one in status["replicas"])

        await until(is_settled)

    def billed(self, tenant: str) -> list[dict[str, Any]]:
        """What its usage log has of a tenant."""
        text = self.usage.read_text() if self.usage.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if line["tenant"] == tenant]


class Fleet:
    """Four replicas as pods of a Service, and the chart's release."""

    def __init__(self, api: Api, family: Family, directory: Path) -> None:
        self.api = api
        self.family = family
        self.directory = directory
        self._profile = load_profile(locate(PROFILE, Path.cwd()))
        self._faster = write_faster(self._profile, SPEED, directory / f"{PROFILE}.yaml")
        self.sidecars: list[Sidecar] = []

    @property
    def model(self) -> str:
        """What requests name."""
        return str(self._profile["models"][0])

    async def start(self) -> None:
        """Starts all of it, the sidecar last."""
        for number, address in enumerate(REPLICAS):
            await self.start_replica(number)
            self.api.pod(f"{SERVICE}-{number}", address, {"app": SERVICE})
        self.api.apply(service(SERVICE, 8000, "http"))
        self.put_endpoints(REPLICAS)
        self.install()
        self.put_sidecars()
        self.sidecars = [Sidecar(self.api, self.family, self.directory, n) for n in range(2)]
        await self.sidecars[0].start()

    async def start_replica(self, number: int) -> Child:
        """Starts a replica, once more where it was killed."""
        address = REPLICAS[number]
        command = weighbridge(
            "emulate",
            *("--replicas", "1", "--host", address, "--base-port", "8000"),
            *("--speed", f"{SPEED:g}", "--profile", PROFILE, "--model", self.model),
        )
        child = await self.family.start(f"replica-{number}", command)
        await answers(f"http://{address}:8000/health")
        return child

    def put_endpoints(self, addresses: tuple[str, ...]) -> None:
        """What the controller would write of the replicas' Service."""
        self.api.apply(endpoint_slice(SERVICE, addresses, 8000, "http"))

    def put_sidecars(self, addresses: tuple[str, ...] = SIDECARS[:1]) -> None:
        """What it would write of the sidecars'."""
        self.api.apply(endpoint_slice(RELEASE, addresses, 9002, "grpc-ext-proc"))

    def values(self) -> Path:
        """The values of the release."""
        source = {"kind": "endpoint_slices", "service": SERVICE, "profile": PROFILE}
        config = {
            "profiles": [str(self._faster)],
            "discovery": {"sources": [source], "warm_up_seconds": 0},
            "drain_seconds": 1,
            "tenant_header": TENANT,
        }
        file = self.directory / "values.yaml"
        file.write_text(yaml.safe_dump({"config": config}))
        return file

    def install(self) -> None:
        """Installs the chart, as somebody would."""
        self.helm("install", RELEASE, str(CHART), "--values", str(self.values()))

    def install_again(self) -> None:
        """Upgrades it to the values that it was installed with."""
        self.helm("upgrade", RELEASE, str(CHART), "--values", str(self.values()))

    def helm(self, *arguments: str) -> str:
        """What helm prints."""
        folder = str(self.directory)
        homes = [f"HELM_{name}_HOME={folder}/helm" for name in ("CACHE", "CONFIG", "DATA")]
        return self.api.run("env", *homes, program("helm"), "--namespace", NAMESPACE, *arguments)

    def chat(self, text: str, **fields: Any) -> dict[str, Any]:
        """A chat completion's body."""
        content = {"model": self.model, "messages": [{"role": "user", "content": text}]}
        return content | {"max_tokens": 8} | fields


class Client:
    """A client of one gateway, which adds up what its replies say that they took."""

    def __init__(self, url: str, fleet: Fleet, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.fleet = fleet
        self._session = session
        self.told: Counter[str] = Counter()

    async def post(
        self, body: dict[str, Any] | bytes, headers: dict[str, str] | None = None
    ) -> Reply:
        """Sends a chat and reads the whole answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"content-type": "application/json"} | (headers or {})
        url = f"{self.url}/v1/chat/completions"
        async with self._session.post(url, data=BytesIO(data), headers=kind) as response:
            reply = Reply(response.status, dict(response.headers), await response.read())
        if reply.status == 200:
            prompt, output = usage_of(reply.body)
            self.told += Counter(requests=1, prompt=prompt, output=output)
        return reply
