"""Packs messages of `envoy-data-plane` the way Envoy's extension points take them."""

from datetime import timedelta

from betterproto2 import Message
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    Pipe,
    SocketAddress,
    TypedExtensionConfig,
)
from envoy_data_plane.google.protobuf import Any

from weighbridge.address import HostPort, UnixPath


def pack(message: Message) -> Any:
    """A message as `google.protobuf.Any`."""
    return Any.pack(message)


def extension(name: str, message: Message) -> TypedExtensionConfig:
    """A message as the typed configuration of the extension called `name`."""
    return TypedExtensionConfig(name=name, typed_config=pack(message))


def address(where: HostPort | UnixPath) -> Address:
    """An address as Envoy's configuration writes it."""
    if isinstance(where, UnixPath):
        return Address(pipe=Pipe(path=where.path))
    return Address(socket_address=SocketAddress(address=where.host, port_value=where.port))


def seconds(count: float) -> timedelta:
    """A duration, s."""
    return timedelta(seconds=count)
