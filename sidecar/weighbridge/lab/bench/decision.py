"""Times decisions in Rust, and looks at the memory of a full core."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.table import Table

from weighbridge._core import bench_decision
from weighbridge.errors import RefusedError
from weighbridge.lab.bench.machine import machine
from weighbridge.lab.bench.profile import profile

BODY_BYTES = (512, 4 << 10, 32 << 10, 256 << 10, 1 << 20)
REPLICAS = (10, 100, 1000)
INDEX_BLOCKS = (0, 1_000_000)
SESSIONS = 100_000
MEMORY_SECONDS = 300.0


def cases() -> Iterator[dict[str, int]]:
    """Every body size with every number of replicas and every size of the index."""
    for index_blocks, replicas, body_bytes in itertools.product(INDEX_BLOCKS, REPLICAS, BODY_BYTES):
        yield {"body_bytes": body_bytes, "replicas": replicas, "index_blocks": index_blocks}


def run(seconds: float, on_row: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All rows, each measured for `seconds`, and the memory; `on_row` is told each row."""
    rows = []
    for case in cases():
        row = json.loads(bench_decision(json.dumps(profile()), json.dumps(case), seconds))
        # The size that was asked for: the key of a row is the same on every machine.
        row = rounded(row | {"body_bytes": case["body_bytes"]})
        rows.append(row)
        on_row(row)
    return {"rows": rows, "memory": memory(), "machine": machine()}


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Figures as precise as they are."""
    digits = {"p50_us": 2, "p99_us": 2, "per_second_core": 0, "gb_per_s": 3, "read_gb_per_s": 3}
    return {
        key: round(value, digits[key]) if key in digits else value for key, value in row.items()
    }


def memory() -> dict[str, Any]:
    """Memory of a process that has 1,000 replicas, 1 M blocks and 100,000 sessions seen."""
    case = {"body_bytes": 4096, "replicas": REPLICAS[-1], "index_blocks": INDEX_BLOCKS[-1]}
    # A process of its own: what the measurements before it left behind does not count.
    child = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "weighbridge.lab.bench.memory", json.dumps(case), str(SESSIONS)],
        capture_output=True,
        text=True,
        timeout=MEMORY_SECONDS,
        check=False,
    )
    if child.returncode != 0:
        raise RefusedError(f"bench: memory: {child.stderr.strip() or child.returncode}")
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for people."""
    shown = Table(title="Decisions, one core", title_justify="left")
    for title in (
        "body",
        "replicas",
        "index",
        "p50 µs",
        "p99 µs",
        "per second",
        "GB/s",
        "read GB/s",
    ):
        shown.add_column(title, justify="right")
    for row in rows:
        shown.add_row(
            f"{row['body_bytes'] / 1024:g} KB",
            f"{row['replicas']:,}",
            f"{row['index_blocks']:,}",
            f"{row['p50_us']:,.1f}",
            f"{row['p99_us']:,.1f}",
            f"{row['per_second_core']:,.0f}",
            f"{row['gb_per_s']:.2f}",
            f"{row['read_gb_per_s']:.2f}",
        )
    return shown
