"""The ADS server: gRPC on an address of its own, one session for each Envoy."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Self

import grpc
import grpc.aio
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryRequest, DiscoveryResponse

from weighbridge.config.fleet import Replica
from weighbridge.errors import RefusedError
from weighbridge.net.credentials import credentials
from weighbridge.net.tls import Certificates
from weighbridge.xds.session import Session
from weighbridge.xds.snapshot import Snapshot, snapshot

log = logging.getLogger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = "StreamAggregatedResources"
# Lists that an Envoy may be behind and still be understood.
REMEMBERED = 64


class AdsServer:
    """Tells every Envoy that asks the list of replicas, and knows who has taken which."""

    def __init__(self, health_path: str, certificates: Certificates | None = None) -> None:
        self._health_path = health_path
        self._certificates = certificates
        self._snapshot: Snapshot | None = None
        # Endpoints of the latest lists, by number.
        self._lists: dict[int, frozenset[str]] = {}
        self._sessions: dict[Session, asyncio.Queue[None]] = {}
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=DiscoveryRequest.parse,
            response_serializer=bytes,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )

    async def start(self, address: str) -> Self:
        """Listens. RefusedError when the address is taken."""
        try:
            first = self._certificates
            if first is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(
                    address, credentials(lambda: self._certificates or first)
                )
        except RuntimeError:
            raise RefusedError(f"discovery.ads.address: cannot listen on {address}") from None
        await self._server.start()
        return self

    def set_certificates(self, certificates: Certificates) -> None:
        """Shows these to connections from now on; of no effect on a server without TLS."""
        self._certificates = certificates

    async def stop(self) -> None:
        """Ends all streams; an Envoy keeps the list that it has."""
        await self._server.stop(0)

    @property
    def sessions(self) -> Sequence[Session]:
        """The Envoys that are connected."""
        return list(self._sessions)

    async def tell(self, replicas: Sequence[Replica]) -> None:
        """Replaces the list, and sends it to all. One call at a time."""
        number = 1 if self._snapshot is None else self._snapshot.number + 1
        # On a thread of its own: thousands of messages take a while.
        self._snapshot = await asyncio.to_thread(snapshot, number, replicas, self._health_path)
        self._lists[number] = self._snapshot.endpoints
        self._lists.pop(number - REMEMBERED, None)
        for wake in self._sessions.values():
            wake.put_nowait(None)

    def taken(self) -> frozenset[str]:
        """Endpoints that every connected Envoy has taken; all, while none is connected."""
        if self._snapshot is None:
            return frozenset()
        known = self._snapshot.endpoints
        for session in self._sessions:
            known &= self._lists.get(session.taken or 0, frozenset())
        return known

    async def _stream(
        self,
        requests: AsyncIterator[DiscoveryRequest],
        context: "grpc.aio.ServicerContext[DiscoveryRequest, DiscoveryResponse]",
    ) -> AsyncIterator[DiscoveryResponse]:
        session = Session()
        wake: asyncio.Queue[None] = asyncio.Queue()
        inbox: asyncio.Queue[DiscoveryRequest | None] = asyncio.Queue()
        reading = asyncio.create_task(read(requests, inbox, wake))
        self._sessions[session] = wake
        try:
            while True:
                await wake.get()
                if self._snapshot is None:
                    # Requests stay in the inbox until there is a list; `tell` wakes us.
                    continue
                while not inbox.empty():
                    request = inbox.get_nowait()
                    if request is None:
                        return
                    refusals = session.refusals
                    for response in session.on_request(request, self._snapshot):
                        yield response
                    if session.refusals != refusals:
                        log.error("Envoy %s refuses the list: %s", session.node, session.refusal)
                for response in session.on_snapshot(self._snapshot):
                    yield response
        finally:
            del self._sessions[session]
            reading.cancel()
            log.info("Envoy %s has left the list's service", session.node or context.peer())


async def read(
    requests: AsyncIterator[DiscoveryRequest],
    inbox: asyncio.Queue[DiscoveryRequest | None],
    wake: asyncio.Queue[None],
) -> None:
    """Hands over what Envoy sends; None is its end."""
    async for request in requests:
        inbox.put_nowait(request)
        wake.put_nowait(None)
    inbox.put_nowait(None)
    wake.put_nowait(None)
