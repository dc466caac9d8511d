"""Addresses: what is read is what was written, and what is wrong is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.address import HostPort, UnixPath, parse_endpoint, parse_host_port, parse_listen

PORTS = st.integers(1, 65535)


@given(st.ip_addresses(), PORTS)
def test_an_endpoint_reads_back_as_it_is_written(ip: object, port: int) -> None:
    address = HostPort(str(ip), port)
    assert parse_endpoint(str(address)) == address
    assert parse_listen(str(address)) == address


@given(st.text(max_size=40))
def test_any_other_text_is_refused_or_read_whole(text: str) -> None:
    try:
        address = parse_host_port(text)
    except ValueError:
        return
    assert 0 < address.port < 65536
    assert address.host


@pytest.mark.parametrize(
    "text", ["", ":80", "host", "host:", "host:0", "host:65536", "host:-1", "::1:80", "[x]:80"]
)
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_host_port(text)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("[FD00:0:0:0:0:0:0:1]:80", "[fd00::1]:80"),
        ("[fd00:0000::0001]:80", "[fd00::1]:80"),
        ("[::ffff:102:304]:80", "[::ffff:1.2.3.4]:80"),
        ("[::FFFF:1.2.3.4]:80", "[::ffff:1.2.3.4]:80"),
        ("[1:0:0:2:0:0:0:3]:80", "[1:0:0:2::3]:80"),
    ],
)
def test_one_ipv6_address_has_one_spelling(written: str, canonical: str) -> None:
    assert str(parse_endpoint(written)) == canonical
    bracketed, _, port = written.rpartition(":")
    assert str(HostPort(bracketed[1:-1], int(port))) == canonical


@given(st.ip_addresses(v=6), PORTS)
def test_every_spelling_of_an_address_is_the_same_replica(ip: Any, port: int) -> None:
    long = f"[{ip.exploded.upper()}]:{port}"
    assert parse_endpoint(long) == parse_endpoint(f"[{ip}]:{port}")


def test_an_address_with_a_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="without its scope"):
        parse_host_port("[fe80::1%eth0]:80")


def test_a_replica_is_no_name() -> None:
    with pytest.raises(ValueError, match="is a name"):
        parse_endpoint("replica-1:8000")


def test_unix_sockets_need_an_absolute_path_that_fits() -> None:
    assert parse_listen("unix:/run/w.sock") == UnixPath("/run/w.sock")
    with pytest.raises(ValueError, match="absolute"):
        parse_listen("unix:w.sock")
    with pytest.raises(ValueError, match="107 bytes"):
        parse_listen("unix:/" + "x" * 107)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert HostPort(host, 80).is_loopback == loopback
