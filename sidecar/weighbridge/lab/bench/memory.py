"""Fills a core and tells the size of its process: `python -m weighbridge.lab.bench.memory`."""

import json
import sys

from weighbridge._core import bench_fill
from weighbridge.lab.bench.machine import resident_mb
from weighbridge.lab.bench.profile import profile


def main(case: str, sessions: str) -> None:
    """Prints replicas, blocks, sessions and resident memory before and after, MB."""
    before = resident_mb()
    core = bench_fill(json.dumps(profile()), case, int(sessions))
    found = {
        "replicas": json.loads(case)["replicas"],
        "index_blocks": core.index_blocks(),
        "sessions": int(sessions),
        "empty_rss_mb": round(before, 1),
        "rss_mb": round(resident_mb(), 1),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
