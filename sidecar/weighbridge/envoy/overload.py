"""What bounds Envoy's own memory and connections, whatever clients send and leave unfinished."""

from envoy_data_plane.envoy.config.overload.v3 import (
    BufferFactoryConfig,
    LoadShedPoint,
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ScaledTrigger,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import (
    DownstreamConnectionsConfig,
)
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig

from weighbridge.config.envoy import EnvoySettings
from weighbridge.envoy.pack import pack, seconds

HEAP = "envoy.resource_monitors.fixed_heap"
CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
# Streams are told apart by the memory that they hold from 2^20 bytes on.
TRACKED_POWER_OF_TWO = 20


def overload_manager(settings: EnvoySettings) -> OverloadManager:
    """Near the bound, the HTTP/2 streams that hold the most go first; then no new request comes in;
    last, an HTTP/1.1 connection that sends more is cut: of those Envoy can take no single stream.
    """
    return OverloadManager(
        # What arrives in between comes on top of the bound.
        refresh_interval=seconds(0.05),
        resource_monitors=[
            ResourceMonitor(
                name=HEAP,
                typed_config=pack(FixedHeapConfig(max_heap_size_bytes=settings.max_heap_bytes)),
            ),
            ResourceMonitor(
                name=CONNECTIONS,
                typed_config=pack(
                    DownstreamConnectionsConfig(
                        max_active_downstream_connections=settings.max_connections
                    )
                ),
            ),
        ],
        actions=[
            action("envoy.overload_actions.shrink_heap", threshold=0.8),
            action("envoy.overload_actions.reset_high_memory_stream", scaled=(0.85, 0.95)),
            action("envoy.overload_actions.disable_http_keepalive", threshold=0.9),
            action("envoy.overload_actions.stop_accepting_requests", threshold=0.95),
        ],
        loadshed_points=[
            LoadShedPoint(
                name="envoy.load_shed_points.http1_server_abort_dispatch",
                triggers=[Trigger(name=HEAP, threshold=ThresholdTrigger(value=0.98))],
            ),
        ],
        buffer_factory_config=BufferFactoryConfig(
            minimum_account_to_track_power_of_two=TRACKED_POWER_OF_TWO
        ),
    )


def action(
    name: str, threshold: float | None = None, scaled: tuple[float, float] | None = None
) -> OverloadAction:
    """What is done from a share of the heap on, or more and more between two shares."""
    trigger = Trigger(name=HEAP)
    if threshold is not None:
        trigger.threshold = ThresholdTrigger(value=threshold)
    if scaled is not None:
        low, high = scaled
        trigger.scaled = ScaledTrigger(scaling_threshold=low, saturation_threshold=high)
    return OverloadAction(name=name, triggers=[trigger])
