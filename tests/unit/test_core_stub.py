"""The stub of the Rust core says what the Rust core has."""

import subprocess
import sys
from pathlib import Path


def test_the_stub_is_true(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text("weighbridge._core.__all__\n")
    command = [
        sys.executable,
        "-m",
        "mypy.stubtest",
        "--allowlist",
        str(allowed),
        "weighbridge._core",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stdout
