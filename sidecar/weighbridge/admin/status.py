"""The sidecar at one moment: what the core says, and what the control plane makes of it."""

from dataclasses import asdict
from typing import Any, cast

import orjson

from weighbridge import __version__
from weighbridge._core import Core
from weighbridge.admin import autoscale, capacity
from weighbridge.config.file import Config
from weighbridge.config.tuning import configured, tuned
from weighbridge.envoy.runtime import View
from weighbridge.shapes import CoreStatus, Status


def snapshot(core: Core, config: Config, view: View) -> Status:
    """The status page's content."""
    status: CoreStatus = orjson.loads(core.status())
    whole: Any = {**status, **control_plane(status, config, view)}
    return cast("Status", whole)


def control_plane(status: CoreStatus, config: Config, view: View) -> dict[str, Any]:
    """What is added to the core's status."""
    effective = tuned(config, view.overrides)
    promised = capacity.promised_mu(effective.admission)
    signals = autoscale.signals(status, effective.autoscaling, promised)
    return {
        "version": __version__,
        "settings": {
            "listen": config.listen.address,
            "max_message_bytes": config.listen.max_message_bytes,
            "admission_enabled": effective.admission.enabled,
            "max_wait_ms": effective.admission.queue.max_wait_ms,
        },
        "autoscaling": {model: asdict(signal) for model, signal in signals.items()},
        "runtime": runtime(config, view),
    }


def runtime(config: Config, view: View) -> dict[str, Any]:
    """The runtime keys that are set, and those that are ignored."""
    return {
        "enabled": config.runtime.enabled,
        "address": config.runtime_address,
        "reachable": view.reachable,
        "set": {
            key.full_name: {"value": value, "configured": configured(config, key)}
            for key, value in sorted(view.overrides.items(), key=lambda item: item[0].name)
        },
        "ignored": view.ignored,
    }
