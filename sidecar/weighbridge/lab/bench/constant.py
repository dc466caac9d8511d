"""An ext_proc server that always chooses one replica: `… -m weighbridge.lab.bench.constant`."""

import signal
import sys

from weighbridge._core import NativeServer


def main(address: str) -> None:
    """Serves on `address` until SIGTERM."""
    server = NativeServer(None, address)
    server.set_ready(True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(0.0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(sys.argv[1])
