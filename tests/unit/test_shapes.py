"""The shapes of what the core tells are those that it has."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from tests.unit.admin.test_admin import PROFILE, decide
from weighbridge._core import Core
from weighbridge.admin.status import snapshot
from weighbridge.config.file import Config
from weighbridge.envoy.runtime import View
from weighbridge.shapes import CoreStatus, Decision, Status


def used() -> Core:
    """A core that has decided something for somebody."""
    core = Core(json.dumps({"profiles": [PROFILE], "tenant_header": "x-tenant"}))
    core.set_replicas(json.dumps([{"endpoint": "10.0.0.1:80", "profile": "p"}]))
    decide(core, "s")
    return core


def test_a_status_has_its_shape() -> None:
    core = used()
    told = json.loads(core.status())
    found = TypeAdapter(CoreStatus).validate_python(told)
    assert found["replicas"][0]["served"]["requests"] == 1
    assert found.keys() == told.keys(), "a key that no shape names"
    assert found["replicas"][0].keys() == told["replicas"][0].keys()
    page = snapshot(core, Config(), View())
    assert TypeAdapter(Status).validate_python(page).keys() == page.keys()


def test_a_decision_has_its_shape() -> None:
    decisions = json.loads(used().decisions(0, 10))
    [one] = TypeAdapter(list[Decision]).validate_python(decisions)
    assert one["replica"] == "10.0.0.1:80"


def test_a_renamed_key_would_be_noticed() -> None:
    told = json.loads(used().status())
    told["replicas"][0]["health_state"] = told["replicas"][0].pop("state")
    with pytest.raises(ValidationError, match="state"):
        TypeAdapter(CoreStatus).validate_python(told)
