"""Finds free TCP ports on loopback and says which wanted ones are taken."""

import os
import socket
from collections.abc import Sequence
from itertools import chain

from weighbridge.address import HostPort
from weighbridge.errors import RefusedError

LOOPBACK = "127.0.0.1"
# Below the range from which Linux takes the ports of outgoing connections (32768 on).
SEARCH_FIRST, SEARCH_LAST = 18000, 32000


def is_free(address: HostPort) -> bool:
    """Whether a listener could bind there now, without sharing the port with another.

    Envoy binds with SO_REUSEPORT and would silently share a port with a second Envoy.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError:
            return False
    return True


def require_free(purpose: str, addresses: Sequence[HostPort]) -> None:
    """Raises RefusedError naming the taken addresses among those wanted."""
    taken = [str(address) for address in addresses if not is_free(address)]
    if taken:
        raise RefusedError(f"{purpose}: {', '.join(taken)} already in use")


def find_free_run(count: int, start: int | None = None) -> int:
    """The first of `count` adjacent ports that are free on loopback.

    Looks from `start` on, and then from the beginning; without one, from a place of this process's
    own, so that two that look at the same time do not find the same.
    """
    span = SEARCH_LAST - SEARCH_FIRST - count + 2
    if span > 0:
        first = SEARCH_FIRST + (os.getpid() * 67 if start is None else start - SEARCH_FIRST) % span
        for candidate in chain(range(first, SEARCH_FIRST + span), range(SEARCH_FIRST, first)):
            ports = range(candidate, candidate + count)
            if all(is_free(HostPort(LOOPBACK, port)) for port in ports):
                return candidate
    raise RefusedError(f"no {count} adjacent free ports from {SEARCH_FIRST} to {SEARCH_LAST}")
