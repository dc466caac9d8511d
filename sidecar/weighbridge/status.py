"""The sidecar at one moment: what the core says, and what the control plane makes of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from weighbridge import __version__, autoscale
from weighbridge._core import Core
from weighbridge.config import Config


def snapshot(core: Core, config: Config) -> dict[str, Any]:
    """The status page's content."""
    status: dict[str, Any] = json.loads(core.status())
    return status | control_plane(status, config)


def control_plane(status: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """What is added to the core's status."""
    signals = autoscale.signals(status, config.autoscaling)
    return {
        "version": __version__,
        "autoscaling": {model: asdict(signal) for model, signal in signals.items()},
    }
