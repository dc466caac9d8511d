"""Makes the sources that a configuration names."""

from collections.abc import Sequence
from pathlib import Path

from weighbridge.config.discovery import (
    AnySource,
    DnsSource,
    EndpointSliceSource,
    EnvoySource,
    FileSource,
)
from weighbridge.config.file import Config
from weighbridge.discovery.endpoint_slices import ServiceEndpoints
from weighbridge.discovery.envoy_admin import EnvoyCluster
from weighbridge.discovery.file import FileList
from weighbridge.discovery.inference_pool import PoolPods
from weighbridge.discovery.source import Source
from weighbridge.discovery.static import StaticSource


def sources(config: Config, base: Path) -> Sequence[Source]:
    """The configuration's own list first, then its sources; files are relative to `base`."""
    return [StaticSource(config.replicas), *(make(one, base) for one in config.discovery.sources)]


def make(settings: AnySource, base: Path) -> Source:
    """The source of these settings."""
    match settings:
        case FileSource():
            return FileList(settings, base)
        case DnsSource():
            # Loads an HTTP client of its own; few look names up.
            from weighbridge.discovery.dns import DnsNames  # noqa: PLC0415

            return DnsNames(settings)
        case EnvoySource():
            return EnvoyCluster(settings)
        case EndpointSliceSource():
            return ServiceEndpoints(settings)
        case _:
            return PoolPods(settings)
