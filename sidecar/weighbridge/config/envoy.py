"""What Envoy is configured with, and asked for."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from weighbridge.config.schema import LoopbackAddress, Name, Section, TcpAddress

BodyMode = Literal["none", "buffered", "full_duplex_streamed"]


# Modes of Envoy that lose bodies (docs/envoy.md): files that name them get the mode that does not.
FORMER_BODY_MODES = {"buffered_partial": "buffered", "streamed": "full_duplex_streamed"}


class Runtime(Section):
    """Runtime keys, polled from Envoy's admin port; docs/tuning.md lists them."""

    enabled: bool = Field(True, description="Off: Envoy's admin port is not asked.")
    address: TcpAddress | None = Field(
        None, description="Envoy's admin port, `host:port`; left out: `envoy.admin`."
    )
    interval_seconds: float = Field(0.5, gt=0, le=60, description="Between two looks, s.")


class SidecarTls(Section):
    """How Envoy speaks TLS to the sidecar. Paths are those that Envoy sees."""

    ca: Name = Field(description="Who signs the sidecar's certificate.")
    server_name: Name = Field(description="The name that the sidecar's certificate must hold.")
    certificate: Name | None = Field(None, description="Envoy's own certificate, for mTLS.")
    key: Name | None = Field(None, description="Its private key.")

    @model_validator(mode="after")
    def _pair(self) -> "SidecarTls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class Cors(Section):
    """Whose pages in a browser may send requests."""

    origins: tuple[Name, ...] = Field(
        min_length=1,
        max_length=1000,
        description="Such as `https://chat.example`; `*` allows every site.",
    )
    headers: tuple[Name, ...] = Field(
        ("authorization", "content-type"),
        description="Headers that they may set. The official clients also set `x-stainless-*`, "
        "each of which has to be named.",
    )
    max_age_seconds: int = Field(
        600, ge=0, le=86_400, description="How long a browser may remember the answer, s."
    )


class EnvoySettings(Section):
    """What `weighbridge envoy render` writes, beyond what the other sections say."""

    listen: TcpAddress = Field("127.0.0.1:10000", description="Where clients connect.")
    admin: LoopbackAddress = Field("127.0.0.1:9901", description="Envoy's admin port.")
    body_mode: BodyMode = Field(
        "buffered",
        description="How much of a request's body the sidecar is sent. `buffered_partial` and "
        "`streamed` of former versions are taken for `buffered` and `full_duplex_streamed`.",
    )
    metering: bool = Field(
        True,
        description="A second filter copies replies to the sidecar, which reads their usage; no "
        "reply waits for it.",
    )
    message_timeout_seconds: float = Field(
        1.0,
        gt=0,
        le=60,
        description="The sidecar's time for one answer, s; then Envoy goes on alone.",
    )
    weighed_percent: int = Field(
        100,
        ge=0,
        le=100,
        description="Share of requests that the sidecar is asked about, percent; the rest goes by "
        "Envoy's own policy. The runtime key `weighbridge.weighed_percent` overrides it.",
    )
    body_buffer_bytes: int = Field(
        16 << 20,
        ge=1 << 16,
        le=1 << 30,
        description="Largest body that is buffered, bytes: weighed as a whole, and repeated by a "
        "retry. At least 2 MiB less than `listen.max_message_bytes`; left out: less where that "
        "is less.",
    )
    max_heap_bytes: int = Field(
        2 << 30,
        ge=64 << 20,
        description="Envoy's memory, bytes: near it the requests that hold the most of it are "
        "ended, then new ones refused, then connections cut that send more. Some 100 MB below what "
        "the container may have.",
    )
    max_connections: int = Field(
        1 << 16,
        ge=1,
        le=1 << 20,
        description="Connections of clients at once; a further one is closed.",
    )
    cors: Cors | None = Field(None, description="Left out: no other site's pages may ask.")
    sidecar_tls: SidecarTls | None = Field(
        None, description="Needed where `listen.tls` is set, and only there."
    )
    replica_silence_seconds: float = Field(
        600.0,
        gt=0,
        le=1800,
        description="A replica that sends nothing for so long has failed its request, s: one not "
        "begun goes to the next one. Above the time of the longest answer that is not streamed.",
    )
    access_log: str | None = Field(
        None, description="File for the access log in JSON, `/dev/stdout` for the terminal."
    )

    @field_validator("body_mode", mode="before")
    @classmethod
    def _former_mode(cls, mode: object) -> object:
        return FORMER_BODY_MODES.get(mode, mode) if isinstance(mode, str) else mode
