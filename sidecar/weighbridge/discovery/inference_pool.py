"""The pods of an InferencePool, which it selects by their labels."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from weighbridge.address import HostPort
from weighbridge.config.discovery import InferencePoolSource
from weighbridge.config.fleet import ReplicaState
from weighbridge.discovery.cluster import Object, connect, follow
from weighbridge.discovery.source import Found, SourceError, from_template

GROUP, VERSION, PLURAL = "inference.networking.k8s.io", "v1", "inferencepools"
ZONE_LABEL = "topology.kubernetes.io/zone"


class PoolPods:
    """One InferencePool."""

    def __init__(self, settings: InferencePoolSource) -> None:
        self._settings = settings
        self.name = settings.label

    async def lists(self) -> AsyncGenerator[tuple[Found, ...], None]:
        """The pool's pods, whenever the pool or a pod changes."""
        async with connect(self._settings) as api:
            pools = self._pools(api)
            async with aclosing(pools):
                pool = await anext(pools)
                while True:
                    next_pool = asyncio.ensure_future(anext(pools))
                    try:
                        async for found in self._until(next_pool, api, pool):
                            yield found
                        pool = await next_pool
                    finally:
                        next_pool.cancel()
                        await asyncio.wait({next_pool})

    async def _pools(self, api: Any) -> AsyncGenerator[Object, None]:
        from kubernetes_asyncio import client  # noqa: PLC0415

        objects = follow(
            api,
            client.CustomObjectsApi(api).list_namespaced_custom_object,
            *(GROUP, VERSION, self._settings.namespace, PLURAL),
            field_selector=f"metadata.name={self._settings.pool}",
        )
        last: Object | None = None
        async for known in objects:
            pool = known.get(self._settings.pool)
            if pool is None:
                raise SourceError(f"there is no InferencePool '{self._settings.pool}'")
            # A change of its status alone changes nobody.
            if last is None or pool.get("spec") != last.get("spec"):
                last = pool
                yield pool

    async def _until(
        self, other: "asyncio.Future[Object]", api: Any, pool: Object
    ) -> AsyncGenerator[tuple[Found, ...], None]:
        """The pods of the pool, until it becomes another."""
        from kubernetes_asyncio import client  # noqa: PLC0415

        pods = follow(
            api,
            client.CoreV1Api(api).list_namespaced_pod,
            self._settings.namespace,
            label_selector=selector(pool),
        )
        async with aclosing(pods):
            while True:
                step = asyncio.ensure_future(anext(pods))
                waited: set[asyncio.Future[Any]] = {step, other}
                try:
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not step.done():
                        step.cancel()
                        await asyncio.wait({step})
                if other.done():
                    return
                yield replicas(step.result().values(), pool, self._settings)


def selector(pool: Object) -> str:
    """The pool's labels, as a query has them."""
    labels = pool["spec"]["selector"]["matchLabels"]
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def ports(pool: Object) -> list[int]:
    """The ports of each pod: a replica each."""
    return [int(one["number"]) for one in pool["spec"]["targetPorts"]]


def replicas(
    pods: Iterable[Object], pool: Object, settings: InferencePoolSource
) -> tuple[Found, ...]:
    """The replicas in the pods."""
    found: dict[str, Found] = {}
    for pod in pods:
        address = pod.get("status", {}).get("podIP")
        state = readiness(pod)
        if not address or state is None:
            continue
        labels = pod["metadata"].get("labels") or {}
        zone = labels.get(ZONE_LABEL) or pod.get("spec", {}).get("nodeName") or ""
        for number in ports(pool):
            where = HostPort(address, number)
            found[str(where)] = from_template(settings, where, zone, state)
    return tuple(found[key] for key in sorted(found))


def readiness(pod: Object) -> ReplicaState | None:
    """What a pod's conditions mean here; None for one that is not to be listed."""
    conditions = pod.get("status", {}).get("conditions") or ()
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    if pod["metadata"].get("deletionTimestamp"):
        return "draining" if ready else None
    return "healthy" if ready else None
