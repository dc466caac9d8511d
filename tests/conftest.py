"""What all Python tests share: the repository's paths, and Hypothesis' settings."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Two busy cores make single examples slow now and then: that is no failure.
settings.register_profile(
    "weighbridge", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("weighbridge")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]
