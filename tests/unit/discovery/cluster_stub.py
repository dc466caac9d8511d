"""An API server of a Kubernetes cluster, as far as lists and watches go."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Object = dict[str, Any]
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
POOLS = "/apis/inference.networking.k8s.io/v1/namespaces/default/inferencepools"
PODS = "/api/v1/namespaces/default/pods"


def labelled(one: Object, selector: str) -> bool:
    """Whether an object has all labels of a selector `a=b,c=d`."""
    labels = one["metadata"].get("labels", {})
    wanted = [pair.split("=", 1) for pair in selector.split(",") if pair]
    return all(labels.get(key) == value for key, value in wanted)


@dataclass
class Cluster:
    """Objects by path and name, and every change since a version."""

    url: str = ""
    version: int = 100
    # Changes before this version are forgotten: a watch from there gets 410.
    forgotten: int = 0
    objects: dict[str, dict[str, Object]] = field(default_factory=dict)
    changes: list[tuple[int, str, str, Object]] = field(default_factory=list)
    lists: int = 0
    # Takes connections and says nothing more.
    frozen: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def put(self, path: str, one: Object) -> None:
        """Adds an object, or changes it."""
        known = self.objects.setdefault(path, {})
        kind = "MODIFIED" if one["metadata"]["name"] in known else "ADDED"
        await self._change(path, kind, one)
        known[one["metadata"]["name"]] = one

    async def delete(self, path: str, name: str) -> None:
        """Takes an object away."""
        await self._change(path, "DELETED", self.objects[path].pop(name))

    async def forget(self) -> None:
        """Forgets all changes, and ends the watches that go on."""
        async with self.changed:
            self.version += 10
            self.forgotten = self.version
            self.changed.notify_all()

    async def _change(self, path: str, kind: str, one: Object) -> None:
        async with self.changed:
            self.version += 1
            one["metadata"]["resourceVersion"] = str(self.version)
            self.changes.append((self.version, path, kind, json.loads(json.dumps(one))))
            self.changed.notify_all()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """A list, or a watch."""
        while self.frozen:
            await asyncio.sleep(0.05)
        if "watch" in request.query:
            return await self._watch(request)
        self.lists += 1
        selector = request.query.get("labelSelector", "")
        known = self.objects.get(request.path, {}).values()
        page = {
            "kind": "List",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": str(self.version)},
            "items": [one for one in known if labelled(one, selector)],
        }
        return web.json_response(page)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        selector = request.query.get("labelSelector", "")
        response = web.StreamResponse()
        await response.prepare(request)

        async def say(kind: str, one: Object) -> None:
            await response.write(json.dumps({"type": kind, "object": one}).encode() + b"\n")

        while True:
            async with self.changed:
                if since < self.forgotten:
                    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "old"}
                    await say("ERROR", gone)
                    return response
                for version, path, kind, one in self.changes:
                    if version > since and path == request.path and labelled(one, selector):
                        await say(kind, one)
                since = self.version
                await self.changed.wait()


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster without any object."""
    stub = Cluster()
    application = web.Application()
    application.router.add_get("/{tail:.*}", stub.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    [address] = runner.addresses
    stub.url = f"http://{address[0]}:{address[1]}"
    try:
        yield stub
    finally:
        await runner.cleanup()
