"""Ports: a taken one is seen, also one that would be shared, and free runs are free."""

import socket

import pytest

from weighbridge.address import HostPort
from weighbridge.errors import RefusedError
from weighbridge.lab.ports import LOOPBACK, find_free_run, is_free, require_free


@pytest.mark.parametrize("shared", [False, True])
def test_a_listening_port_is_taken(shared: bool) -> None:
    with socket.socket() as listener:
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((LOOPBACK, 0))
        listener.listen()
        address = HostPort(LOOPBACK, listener.getsockname()[1])
        assert not is_free(address)
        with pytest.raises(RefusedError, match=f"demo: {address} already in use"):
            require_free("demo", [address])
    assert is_free(address)


def test_a_run_leaves_out_what_is_taken() -> None:
    first = find_free_run(4)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, first + 2))
        listener.listen()
        found = find_free_run(4, first)
        assert first + 2 not in range(found, found + 4)
        assert all(is_free(HostPort(LOOPBACK, port)) for port in range(found, found + 4))


def test_no_run_at_all_is_said() -> None:
    with pytest.raises(RefusedError, match="no 40000 adjacent free ports"):
        find_free_run(40_000)
