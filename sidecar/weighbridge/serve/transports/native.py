"""The native transport: the tonic server inside the core, on threads of its own."""

import asyncio

from weighbridge._core import Core, CoreError, NativeServer
from weighbridge.config.listen import Listen
from weighbridge.errors import ConfigError, RefusedError
from weighbridge.net.tls import Certificates


class NativeTransport:
    """Starts and stops the core's server."""

    def __init__(self, core: Core, listen: Listen, certificates: Certificates | None) -> None:
        try:
            self._server = NativeServer(
                core,
                listen.address,
                threads=listen.threads,
                max_message_bytes=listen.max_message_bytes,
                max_streams=listen.max_streams,
                tls=_pem(certificates) if certificates else None,
            )
        except CoreError as error:
            raise RefusedError(str(error)) from None

    async def set_ready(self, ready: bool) -> None:
        """What its gRPC health service answers for readiness."""
        self._server.set_ready(ready)

    def set_certificates(self, certificates: Certificates) -> None:
        """Shows these to connections from now on; of no effect on a server without TLS."""
        try:
            self._server.set_tls(*_pem(certificates))
        except CoreError as error:
            raise ConfigError(f"listen.tls: {error}") from None

    async def stop(self, drain_seconds: float) -> bool:
        """Takes no new stream, lets open ones end; True when none was cut off."""
        return await asyncio.to_thread(self._server.stop, drain_seconds)


def _pem(certificates: Certificates) -> tuple[bytes, bytes, bytes | None]:
    return certificates.certificate, certificates.key, certificates.client_ca
