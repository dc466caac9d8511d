"""The grpcio transport: a Python server that passes bytes to the core's state machine.

For those who want Python interceptors in the path; the native transport is faster.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Self

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from weighbridge._core import EXT_PROC_DESCRIPTORS, Core, Stream
from weighbridge.config import Listen
from weighbridge.credentials import credentials
from weighbridge.envoy.names import EXT_PROC_SERVICE
from weighbridge.errors import RefusedError
from weighbridge.tls import Certificates

LIVENESS = "liveness"
READY_SERVICES = ("", "readiness", EXT_PROC_SERVICE)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class GrpcioTransport:
    """A `grpc.aio` server with the ext_proc and the health service."""

    def __init__(self, core: Core, listen: Listen, certificates: Certificates | None) -> None:
        self._core = core
        self._certificates = certificates
        self._open_streams = 0
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", listen.max_message_bytes),
                ("grpc.max_concurrent_streams", listen.max_streams),
                # Else a second sidecar would share the port unnoticed.
                ("grpc.so_reuseport", 0),
            ]
        )
        handler = grpc.stream_stream_rpc_method_handler(self._process)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(EXT_PROC_SERVICE, {"Process": handler}),)
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (EXT_PROC_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME),
            self._server,
            pool=_descriptors(),
        )

    @classmethod
    async def start(cls, core: Core, listen: Listen, certificates: Certificates | None) -> Self:
        """Listens and serves. RefusedError when the address is taken."""
        transport = cls(core, listen, certificates)
        try:
            if certificates is None:
                transport._server.add_insecure_port(listen.address)
            else:
                transport._server.add_secure_port(
                    listen.address, credentials(lambda: transport._certificates or certificates)
                )
        except RuntimeError:
            raise RefusedError(f"listen.address: cannot listen on {listen.address}") from None
        await transport._health.set(LIVENESS, SERVING)
        await transport.set_ready(False)
        await transport._server.start()
        return transport

    async def set_ready(self, ready: bool) -> None:
        """What its gRPC health service answers for readiness."""
        for service in READY_SERVICES:
            await self._health.set(service, SERVING if ready else NOT_SERVING)

    def set_certificates(self, certificates: Certificates) -> None:
        """Shows these to connections from now on; of no effect on a server without TLS."""
        self._certificates = certificates

    async def stop(self, drain_seconds: float) -> bool:
        """Takes no new stream, lets open ones end; True when none was cut off."""
        # Leaves the cutting off to the second call, so that what is cut off can be seen.
        drain = asyncio.ensure_future(self._server.stop(drain_seconds + 60))
        await asyncio.wait({drain}, timeout=drain_seconds)
        clean = self._open_streams == 0
        await self._server.stop(0)
        await drain
        return clean

    async def _process(
        self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        # Raw bytes both ways: no protobuf object is made in Python.
        stream = Stream(self._core, traceparent(context))
        self._open_streams += 1
        try:
            async for message in messages:
                for reply in stream.on_message(message):
                    yield reply
                if stream.is_waiting():
                    for reply in await admitted(stream):
                        yield reply
                if stream.is_over():
                    return
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self._open_streams -= 1
            stream.close()


def traceparent(context: grpc.aio.ServicerContext[bytes, bytes]) -> str | None:
    """The gateway's own span of this call, where it traces."""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent" and isinstance(value, str):
            return value
    return None


async def admitted(stream: Stream) -> list[bytes]:
    """The replies that have waited for admission, once that is decided."""
    loop = asyncio.get_running_loop()
    while True:
        woken = asyncio.Event()

        # Called from any thread; when the loop is closed, nobody waits any more.
        def wake(woken: asyncio.Event = woken) -> None:
            loop.call_soon_threadsafe(woken.set)

        replies = stream.resume(wake)
        if replies is not None:
            return replies
        await woken.wait()


def _descriptors() -> DescriptorPool:
    """The messages that reflection tells of: Envoy's, health's and its own."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(EXT_PROC_DESCRIPTORS).file:
        pool.Add(file)
    for module in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool
