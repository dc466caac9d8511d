"""The ext_proc server that Envoy talks to: native (Rust) or grpcio (Python), one behaviour."""

from typing import Protocol

from weighbridge._core import Core
from weighbridge.config.listen import Listen
from weighbridge.net.tls import Certificates


class Transport(Protocol):
    """A running ext_proc server."""

    async def set_ready(self, ready: bool) -> None:
        """What its gRPC health service answers for readiness."""

    def set_certificates(self, certificates: Certificates) -> None:
        """Shows these to connections from now on; of no effect on a server without TLS."""

    async def stop(self, drain_seconds: float) -> bool:
        """Takes no new stream, lets open ones end; True when none was cut off."""


async def start(core: Core, listen: Listen, certificates: Certificates | None) -> Transport:
    """Starts the transport that the configuration names, under TLS if there are certificates.

    RefusedError when it cannot listen.
    """
    # Each transport is imported only where it is used: grpc is slow to load.
    if listen.transport == "native":
        from weighbridge.serve.transports.native import NativeTransport  # noqa: PLC0415

        return NativeTransport(core, listen, certificates)
    from weighbridge.serve.transports.grpcio import GrpcioTransport  # noqa: PLC0415

    return await GrpcioTransport.start(core, listen, certificates)
