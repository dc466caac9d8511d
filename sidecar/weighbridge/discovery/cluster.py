"""A Kubernetes cluster's objects, listed and then watched, as the official client tells them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from weighbridge.config.discovery import KubernetesSource
from weighbridge.discovery.source import SourceError

Object = Mapping[str, Any]
# The server ends a watch after so long, s; it is taken up again where it was.
WATCH_SECONDS = 240
# Of a list that is asked for: the client waits no longer, s.
LIST_SECONDS = 30
# A watch that says nothing for so long, s, may be of a server that is lost without a word: all is
# listed again. Servers send a bookmark a minute where nothing changes.
SILENCE_SECONDS = 90
GONE = 410


@asynccontextmanager
async def connect(settings: KubernetesSource) -> AsyncIterator[Any]:
    """A client of the cluster: `api`, else the pod's service account, else the kubeconfig file."""
    try:
        from kubernetes_asyncio import client, config  # noqa: PLC0415
    except ImportError:
        raise SourceError(
            "the Kubernetes client is missing: pip install 'weighbridge[kubernetes]'"
        ) from None
    made = client.Configuration()
    try:
        if settings.api is not None:
            made.host = settings.api
        else:
            try:
                config.load_incluster_config(client_configuration=made)  # type: ignore[no-untyped-call]
            except config.ConfigException:
                await config.load_kube_config(client_configuration=made)
    except (config.ConfigException, OSError) as error:
        raise SourceError(f"no access to a cluster: {error}") from None
    async with client.ApiClient(configuration=made) as api:
        yield api


async def follow(
    api: Any, listing: Callable[..., Awaitable[Any]], *path: str, **query: str
) -> AsyncGenerator[dict[str, Object], None]:
    """All objects by name: as they are, and again after each change.

    Where the server no longer knows the changes since (410), or says nothing, all are listed again.
    """
    from kubernetes_asyncio import watch  # noqa: PLC0415
    from kubernetes_asyncio.client import ApiException  # noqa: PLC0415

    try:
        while True:
            listed = await listing(*path, _request_timeout=LIST_SECONDS, **query)
            page = api.sanitize_for_serialization(listed)
            objects = {name_of(one): one for one in page["items"]}
            version = page["metadata"]["resourceVersion"]
            yield dict(objects)
            try:
                while True:
                    # "object": events stay as they came, whatever the kind.
                    async with watch.Watch("object") as watching:
                        async for event in watching.stream(
                            listing,
                            *path,
                            resource_version=version,
                            timeout_seconds=WATCH_SECONDS,
                            allow_watch_bookmarks=True,
                            _request_timeout=(LIST_SECONDS, SILENCE_SECONDS),
                            **query,
                        ):
                            changed = event["raw_object"]
                            version = changed["metadata"]["resourceVersion"]
                            if apply(objects, event["type"], changed):
                                yield dict(objects)
                    # A server that ends each watch at once is not asked in a hot loop.
                    await asyncio.sleep(0.1)
            except ApiException as error:
                if error.status != GONE:
                    raise
            except aiohttp.SocketTimeoutError:
                continue
    except ApiException as error:
        raise SourceError(f"the API server answers {error.status}: {error.reason}") from None
    except (aiohttp.ClientError, TimeoutError, OSError, KeyError, ValueError) as error:
        raise SourceError(f"the API server: {error or type(error).__name__}") from None


def apply(objects: dict[str, Object], kind: str, changed: Object) -> bool:
    """Applies one event to what is known; False where it changes nothing."""
    if kind == "BOOKMARK":
        return False
    if kind == "DELETED":
        return objects.pop(name_of(changed), None) is not None
    objects[name_of(changed)] = changed
    return True


def name_of(one: Object) -> str:
    """An object's name."""
    return str(one["metadata"]["name"])
