"""The native transport: the tonic server inside the core, on threads of its own."""

import asyncio

from weighbridge._core import Core, CoreError, NativeServer
from weighbridge.config import Listen
from weighbridge.errors import RefusedError


class NativeTransport:
    """Starts and stops the core's server."""

    def __init__(self, core: Core, listen: Listen) -> None:
        try:
            self._server = NativeServer(
                core, listen.address, listen.threads, listen.max_message_bytes
            )
        except CoreError as error:
            raise RefusedError(str(error)) from None

    async def set_ready(self, ready: bool) -> None:
        """What its gRPC health service answers for readiness."""
        self._server.set_ready(ready)

    async def stop(self, drain_seconds: float) -> bool:
        """Takes no new stream, lets open ones end; True when none was cut off."""
        return await asyncio.to_thread(self._server.stop, drain_seconds)
