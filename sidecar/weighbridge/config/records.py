"""What is written down of requests and of the sidecar: usage, spans, log."""

from pydantic import Field

from weighbridge.config.schema import Name, Section, TcpAddress
from weighbridge.process.logs import LogFormat, LogLevel


class UsageLog(Section):
    """What each request took, a line of JSON each; for bills."""

    path: Name | None = Field(
        None, description="The file, relative to this one; left out: none is written."
    )
    max_bytes: int = Field(
        256 << 20, ge=1024, le=1 << 40, description="Size at which the file is set aside, bytes."
    )
    files: int = Field(8, ge=1, le=1000, description="Files set aside that are kept.")
    interval_seconds: float = Field(
        0.5, gt=0, le=1, description="Between two writes, s; a kill loses no more than that."
    )
    max_pending: int = Field(
        100_000, ge=1, le=10_000_000, description="Records that wait for a disk that is full."
    )


class Tracing(Section):
    """Decisions as spans in OpenTelemetry traces; needs `weighbridge[otel]`."""

    collector: TcpAddress | None = Field(
        None,
        description="An OTLP receiver that speaks gRPC in plain text, `host:port`, often "
        "127.0.0.1:4317. Left out: nothing is traced.",
    )
    service_name: Name = Field("weighbridge", description="The sidecar's `service.name`.")
    max_pending: int = Field(
        10_000, ge=1, le=1 << 20, description="Spans that wait to be sent; beyond, the oldest go."
    )
    interval_seconds: float = Field(1.0, gt=0, le=60, description="Between two sendings, s.")
    timeout_seconds: float = Field(
        5.0, gt=0, le=60, description="For one sending, s; then its spans are lost and counted."
    )
    envoy: bool = Field(
        True,
        description="`weighbridge envoy render` gives Envoy a tracer of its own, with the same "
        "collector: its spans stand above the sidecar's.",
    )
    envoy_service_name: Name = Field("envoy", description="That tracer's `service.name`.")
    sampled_percent: float = Field(
        100.0,
        ge=0,
        le=100,
        description="Share of requests for which Envoy begins a sampled trace, percent; where the "
        "client's `traceparent` comes along, its own flag says it.",
    )


class Log(Section):
    """The log on standard error, one line a record."""

    level: LogLevel = Field("info", description="Least severity that is written.")
    format: LogFormat = Field("text", description="`text` or `json`.")
