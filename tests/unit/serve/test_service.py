"""The sidecar's process, without its sockets: reloads are whole, descriptors are enough."""

import asyncio
import json
import logging
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import yaml

from weighbridge._core import CoreError
from weighbridge.config.reading import load
from weighbridge.serve.service import Service, descriptors, take_descriptors

PROFILE = "llama-3.1-8b-fp8-h100"
BEFORE: dict[str, Any] = {
    "profiles": [PROFILE],
    "replicas": [{"endpoint": "10.0.0.1:80", "profile": PROFILE}],
}
# A change in every section that a running sidecar can change.
AFTER: dict[str, Any] = BEFORE | {
    "replicas": [{"endpoint": "10.0.0.2:80", "profile": PROFILE}],
    "placing": {"load_tolerance": 0.5},
    "admission": {"enabled": False},
    "observe_only": True,
    "health": {"interval_seconds": 0.5},
    "telemetry": {"interval_seconds": 0.5},
    "discovery": {"drain_seconds": 7},
}


class FailingCore:
    """Takes settings as the core does; one call of them fails, and how is of no matter."""

    def __init__(self, core: Any, fails_at: int, error: Exception) -> None:
        self._core = core
        self._left = fails_at
        self._error = error
        self.last: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("set_"):
            return getattr(self._core, name)

        def call(value: Any) -> None:
            self._left -= 1
            if self._left == 0:
                raise self._error
            getattr(self._core, name)(value)
            self.last[name] = value

        return call


def written(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("error", [CoreError("no"), RuntimeError("no")], ids=["core", "other"])
@pytest.mark.parametrize("fails_at", range(1, 6))
async def test_a_reload_that_fails_halfway_leaves_all_as_it_was(
    tmp_path: Path, fails_at: int, error: Exception
) -> None:
    service = Service(written(tmp_path / "weighbridge.yaml", BEFORE))
    # What is in force now, as the core was told.
    clean = FailingCore(service._core, 0, error)
    service._core = clean  # type: ignore[assignment]
    service._set_all(service._config)
    before = service._config, service._fleet.endpoints(), clean.last
    failing = FailingCore(clean._core, fails_at, error)
    service._core = failing  # type: ignore[assignment]
    written(tmp_path / "weighbridge.yaml", AFTER)
    # The settings that the core takes are four; the fifth failure never happens.
    is_taken = fails_at > len(before[2])
    try:
        await service._reload()
    except RuntimeError:
        assert isinstance(error, RuntimeError)
    assert (service._reloads.refused is None) == is_taken
    if not is_taken:
        now = service._config, service._fleet.endpoints(), before[2] | failing.last
        assert now == before
    assert json.loads(failing.last["set_placing"])["load_tolerance"] == (
        0.5 if is_taken else json.loads(before[2]["set_placing"])["load_tolerance"]
    )
    await service._fleet.close()


async def test_a_source_that_cannot_be_made_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(written(tmp_path / "weighbridge.yaml", BEFORE))
    before = service._config

    def fails(*_: Any) -> None:
        raise RuntimeError("no such package")

    monkeypatch.setattr("weighbridge.discovery.fleet.sources", fails)
    written(tmp_path / "weighbridge.yaml", AFTER)
    with pytest.raises(RuntimeError, match="no such package"):
        await service._reload()
    assert service._config is before
    assert service._reloads.refused == "RuntimeError: no such package"


async def test_what_is_no_file_is_refused_and_the_next_file_is_taken(tmp_path: Path) -> None:
    source = written(tmp_path / "weighbridge.yaml", BEFORE)
    service = Service(source)
    source.unlink()
    os.mkfifo(source)
    # Read on a thread of its own: the loop's would wait for a writer that never comes.
    await asyncio.wait_for(service._reload(), 5)
    assert service._reloads.refused == f"{source}: is no regular file"
    source.unlink()
    written(source, AFTER)
    await service._reload()
    assert service._reloads.refused is None
    await service._fleet.close()


def test_ready_needs_a_replica(tmp_path: Path) -> None:
    listed = tmp_path / "replicas.json"
    sources = {"discovery": {"sources": [{"kind": "file", "path": str(listed)}]}}
    service = Service(written(tmp_path / "weighbridge.yaml", BEFORE | {"replicas": []} | sources))
    assert not service._fleet.has_any
    assert service._notes() == ["no replica is known: see discovery in /status"]
    assert Service(written(tmp_path / "weighbridge.yaml", BEFORE))._fleet.has_any


def test_a_limit_of_descriptors_that_is_too_low_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = load(written(tmp_path / "weighbridge.yaml", BEFORE))
    enough = descriptors(config)
    raised: list[tuple[int, int]] = []
    limits = [64, enough]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: raised.append(both))
    with caplog.at_level(logging.WARNING):
        take_descriptors(config)
        assert raised == [(enough, enough)]
        assert not caplog.records
        limits[1] = 200
        take_descriptors(config)
        assert raised[1] == (200, 200)
        assert "200 descriptors are too few" in caplog.text
        caplog.clear()

        def refuses(_: int, both: tuple[int, int]) -> None:
            raise PermissionError(1, f"no {both[0]}")

        limits[1] = resource.RLIM_INFINITY
        monkeypatch.setattr(resource, "setrlimit", refuses)
        take_descriptors(config)
        assert "stays at 64" in caplog.text
        assert "64 descriptors are too few" in caplog.text
