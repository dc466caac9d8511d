"""The grpcio transport: a Python server that passes bytes to the core's state machine.

For those who want Python interceptors in the path; the native transport is faster.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from weighbridge._core import EXT_PROC_DESCRIPTORS, Core, Stream
from weighbridge.config.listen import Listen
from weighbridge.envoy.names import EXT_PROC_SERVICE
from weighbridge.errors import RefusedError
from weighbridge.net.credentials import credentials
from weighbridge.net.tls import Certificates

# As the native transport: Envoy is asked whether it is still there, ms, and its streams end when it
# does not answer.
KEEPALIVE_MS = 10_000
KEEPALIVE_ANSWER_MS = 5_000
# Largest head of a call, bytes: Envoy's are some hundred bytes.
HEAD_BYTES = 64 << 10
# Longest that a heavy message may wait for a thread, s.
LONGEST_HEAVY_WAIT = 5.0
# Messages beyond the limit are still taken up to this many times its size: so their requests can be
# refused, where an error of the call would let them pass.
TAKEN_TIMES = 4
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
        self._max_message_bytes = listen.max_message_bytes
        self._beside = ThreadPoolExecutor(listen.threads, "weighbridge-beside")
        self._server = grpc.aio.server(
            options=[
                (
                    "grpc.max_receive_message_length",
                    min(TAKEN_TIMES * listen.max_message_bytes, (1 << 31) - 1),
                ),
                ("grpc.max_metadata_size", HEAD_BYTES),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
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
        self._beside.shutdown(wait=False)
        return clean

    async def _process(
        self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        # Raw bytes both ways: no protobuf object is made in Python.
        stream = Stream(self._core, traceparent(context))
        self._open_streams += 1
        call = Call(stream, partial(read, context), self._beside, self._max_message_bytes)
        try:
            while not (stream.is_over() or call.is_refused):
                for reply in await call.step():
                    yield reply
        except StopAsyncIteration:
            return
        except MessageTooLargeError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self._open_streams -= 1
            call.close()


async def read(context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """The next message; StopAsyncIteration when there is none.

    grpcio's own iterator keeps a message until the next one comes: while its request waits.
    """
    message = await context.read()
    if isinstance(message, bytes):
        return message
    raise StopAsyncIteration


class MessageTooLargeError(Exception):
    """A message beyond the limit, of no request that can be refused."""


class Call:
    """One ext_proc stream: its machine, and what is under way for it."""

    def __init__(
        self,
        stream: Stream,
        read: Callable[[], Coroutine[Any, Any, bytes]],
        beside: ThreadPoolExecutor,
        max_message_bytes: int,
    ) -> None:
        self._stream = stream
        self._read = read
        self._beside = beside
        self._max_message_bytes = max_message_bytes
        self._reading: asyncio.Future[bytes] | None = None
        self._resuming: asyncio.Future[list[bytes]] | None = None
        self._heavy: bytes | None = None
        self._is_beside = False
        self.is_refused = False

    async def step(self) -> list[bytes]:
        """The replies to what comes next. StopAsyncIteration when no message does."""
        if self._heavy is not None:
            return await self._answer_heavy(self._heavy)
        message = await self._next()
        if isinstance(message, list):
            return message
        if len(message) > self._max_message_bytes:
            self.is_refused = True
            refusal = self._stream.refuse_too_large(self._max_message_bytes)
            if not refusal:
                raise MessageTooLargeError(f"{len(message)} bytes are too many for a message")
            return refusal
        if self._stream.is_heavy(len(message)):
            self._heavy = message
            patience = self._stream.more_time()
            return [] if patience is None else [patience]
        return self._stream.on_message(message)

    async def _next(self) -> bytes | list[bytes]:
        """A message, or the replies that have waited for admission."""
        resuming = self._resuming
        if resuming is not None and not resuming.done() and not self._stream.is_waiting():
            # A message had it refused before it was admitted.
            resuming.cancel()
            self._resuming = resuming = None
        if resuming is not None or self._stream.is_waiting():
            # Messages are taken meanwhile, so that they hold up no other stream.
            reading = self._reading or asyncio.ensure_future(self._read())
            resuming = resuming or asyncio.ensure_future(admitted(self._stream))
            self._reading, self._resuming = reading, resuming
            both: set[asyncio.Future[Any]] = {reading, resuming}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if resuming.done():
                self._resuming = None
                return resuming.result()
        message, self._reading = self._reading, None
        return await (self._read() if message is None else message)

    async def _answer_heavy(self, message: bytes) -> list[bytes]:
        self._heavy = None
        self._is_beside = True
        replies = await asyncio.get_running_loop().run_in_executor(
            self._beside, answer_heavy, self._stream, message, time.monotonic()
        )
        self._is_beside = False
        return replies

    def close(self) -> None:
        """The stream has ended."""
        for one in (self._reading, self._resuming):
            if one is not None and not one.cancel() and not one.cancelled():
                # What it failed with is of no interest any more.
                one.exception()
        # It must not wait here for a body that is being read.
        if self._is_beside:
            self._beside.submit(self._stream.close)
        else:
            self._stream.close()


def answer_heavy(stream: Stream, message: bytes, since: float) -> list[bytes]:
    """The replies to a heavy message, on a thread of its own; a refusal where it came too late."""
    refusal = stream.refuse_busy() if time.monotonic() - since > LONGEST_HEAVY_WAIT else []
    return refusal or stream.on_message(message)


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
