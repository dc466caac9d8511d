"""What a benchmark ran on, and what processes have used of it, from /proc."""

import os
import platform
from pathlib import Path
from typing import Any

from weighbridge import __version__

TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """The machine and the version, beside every result."""
    return {
        "weighbridge": __version__,
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
    }


def cpu_model() -> str:
    """The processor's name; empty where /proc does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "")


def cpu_us(pid: int) -> float:
    """CPU time that a process has used in all its threads, µs."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) * TICK_US


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory of a process, MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
