"""The ext_proc server that Envoy talks to: native (Rust) or grpcio (Python), one behaviour."""

from typing import Protocol

from weighbridge._core import Core
from weighbridge.config import Listen


class Transport(Protocol):
    """A running ext_proc server."""

    async def set_ready(self, ready: bool) -> None:
        """What its gRPC health service answers for readiness."""

    async def stop(self, drain_seconds: float) -> bool:
        """Takes no new stream, lets open ones end; True when none was cut off."""


async def start(core: Core, listen: Listen) -> Transport:
    """Starts the transport that the configuration names. RefusedError when it cannot listen."""
    # Each transport is imported only where it is used: grpc is slow to load.
    if listen.transport == "native":
        from weighbridge.transports.native import NativeTransport  # noqa: PLC0415

        return NativeTransport(core, listen)
    from weighbridge.transports.grpcio import GrpcioTransport  # noqa: PLC0415

    return await GrpcioTransport.start(core, listen)
