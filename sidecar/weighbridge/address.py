"""Addresses as the configuration writes them: `ip:port`, `host:port` and `unix:/path`."""

import ipaddress
from dataclasses import dataclass

MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host, without the brackets of IPv6, and a TCP port. An IPv6 address has one spelling."""

    host: str
    port: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", canonical(self.host))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        return self.is_ip and ipaddress.ip_address(self.host).is_loopback

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP address, not a name."""
        return is_ip(self.host)


def canonical(host: str) -> str:
    """An IPv6 address as the core and RFC 5952 write it; any other host as it is."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped
    return str(address) if mapped is None else f"::ffff:{mapped}"


def reached(endpoint: str) -> str:
    """What an `ip:port` leads to: of an IPv4 address that is written as IPv6, the IPv4 address.

    Envoy knows these by two names, and so do settings; the replica behind them is one.
    """
    return endpoint.removeprefix("[::ffff:").replace("]", "") if "." in endpoint else endpoint


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A Unix domain socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


def is_ip(host: str) -> bool:
    """Whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_host_port(text: str) -> HostPort:
    """Reads `host:port` or `[ipv6]:port`; ValueError says what is wrong."""
    host, colon, port_text = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"'{text}' is no host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        # A scope is a matter of one machine: Envoy and the core know none.
        if "%" in host:
            raise ValueError(f"'{text}': write the address without its scope, '%…'")
        ipaddress.IPv6Address(host)
    elif ":" in host:
        raise ValueError(f"'{text}': write an IPv6 address in brackets, [::1]:80")
    if not (port_text.isascii() and port_text.isdigit()) or not 0 < int(port_text) <= MAX_PORT:
        raise ValueError(f"'{text}': the port must be a number from 1 to {MAX_PORT}")
    return HostPort(host, int(port_text))


def parse_endpoint(text: str) -> HostPort:
    """Reads a replica's `ip:port`; a name is refused, as Envoy finds a chosen host by its IP."""
    address = parse_host_port(text)
    if not address.is_ip:
        raise ValueError(
            f"'{text}': a replica is given by its IP address, '{address.host}' is a name"
        )
    return address


def parse_listen(text: str) -> HostPort | UnixPath:
    """Reads `host:port` or `unix:/absolute/path`."""
    if not text.startswith("unix:"):
        return parse_host_port(text)
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise ValueError(f"'{text}': write an absolute path, unix:/run/weighbridge.sock")
    # sun_path holds 108 bytes with its closing NUL.
    if len(path.encode()) > 107:
        raise ValueError(f"'{text}': the path of a Unix socket has at most 107 bytes")
    return UnixPath(path)
