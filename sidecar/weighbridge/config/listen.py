"""The port that Envoy's ext_proc filter asks."""

from typing import Literal

from pydantic import Field

from weighbridge.config.schema import ListenAddress, Name, Section

Transport = Literal["native", "grpcio"]


class Tls(Section):
    """Certificates of the ext_proc port, files in PEM, relative to the configuration file."""

    certificate: Name = Field(description="The server's certificate, then its intermediates.")
    key: Name = Field(description="Its private key.")
    client_ca: Name | None = Field(
        None,
        description="Who signs clients' certificates. With it, a client without one is refused.",
    )


class Listen(Section):
    """Where Envoy's ext_proc filter reaches the sidecar."""

    address: ListenAddress = Field(
        "127.0.0.1:9002", description="`host:port` or `unix:/absolute/path`."
    )
    transport: Transport = Field(
        "native",
        description="`native`: the server inside the Rust core. `grpcio`: a Python server that "
        "passes bytes to the same core, for those who want Python interceptors.",
    )
    threads: int = Field(2, ge=1, le=256, description="Threads of the native server.")
    max_message_bytes: int = Field(
        18 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="Largest ext_proc message, bytes; a body in a larger one is refused with 413.",
    )
    held_body_bytes: int = Field(
        192 << 20,
        ge=1 << 20,
        le=1 << 40,
        description="Most bytes of bodies that are held at once, of all requests together; a "
        "request beyond is refused with 503. The process may take twice as much for them.",
    )
    max_streams: int = Field(
        65_536,
        ge=1,
        le=1 << 20,
        description="Streams that one connection may have open; each request under way holds one, "
        "its metering another.",
    )
    tls: Tls | None = Field(
        None,
        description="Left out: plain text, for a sidecar on loopback or a Unix socket. Files that "
        "change are read again.",
    )
