"""Runs emulated replicas until told to stop."""

import json
import logging
import signal
from typing import Any

from weighbridge._core import CoreError, Emulator
from weighbridge.errors import RefusedError
from weighbridge.process import logs

log = logging.getLogger(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT)


def run(settings: dict[str, Any]) -> None:
    """Serves the replicas until SIGTERM or SIGINT. RefusedError when a port is taken.

    `settings` are the fields of the emulator's configuration (rust_core/emulator).
    """
    logs.configure("info", "text")
    # Blocked before the emulator's threads start, so that only sigwait sees them.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        emulator = Emulator(json.dumps(settings))
    except CoreError as error:
        raise RefusedError(str(error)) from None
    addresses = emulator.addresses()
    log.info("%d emulated replicas: %s", len(addresses), " ".join(addresses))
    signal.sigwait(STOPPING)
    emulator.stop()
    log.info("stopped")
