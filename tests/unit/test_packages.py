"""The source distribution: what it holds is all that a build needs beside the registries."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest


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
