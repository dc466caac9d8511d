"""Feeds what replicas and Envoy may answer to what reads it.

    python -m tests.fuzz_pages [INPUTS] [SEED]

Inputs are mutations of pages as engines and Envoy write them. Nothing may be raised, and what is
read must be what the core takes.
"""

import json
import random
import sys
import time
from typing import Any

from weighbridge.config.discovery import EnvoySource
from weighbridge.discovery.envoy_admin import hosts
from weighbridge.discovery.source import SourceError
from weighbridge.envoy.outliers import read_clusters
from weighbridge.envoy.runtime import read as read_runtime
from weighbridge.serve.telemetry import read_iterations

RECORD = {
    "iter": 7,
    "numActiveRequests": 3,
    "numQueuedRequests": 2,
    "numCompletedRequests": 1,
    "kvCacheStats": {"usedNumBlocks": 10, "tokensPerBlock": 32},
}
HOST = {
    "address": {"socket_address": {"address": "fd00::1", "port_value": 8000}},
    "health_status": {"eds_health_status": "HEALTHY", "failed_outlier_check": True},
    "locality": {"zone": "a"},
}
SEEDS = [
    json.dumps(page).encode()
    for page in (
        [],
        [RECORD],
        [RECORD, RECORD | {"iter": 8}],
        {"cluster_statuses": [{"name": "replicas", "host_statuses": [HOST, HOST]}]},
        {"entries": {"weighbridge.samples": {"final_value": "8"}}},
    )
]
SEEDS.append(b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model="m"} 3.0\n')
PIECES = [
    *(b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"-1", b"1e999", b"NaN", b"\\u"),
    *(b"9" * 30, b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\xff", b"\x00", b" " * 70_000, b"''"),
]
SOURCE = EnvoySource(kind="envoy", profile="p", admin="127.0.0.1:9901", cluster="replicas")


def mutate(chance: random.Random) -> bytes:
    """A page with a few mistakes in it."""
    page = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(0, 4)):
        at = chance.randint(0, len(page))
        match chance.randint(0, 4):
            case 0:
                page[at:at] = chance.choice(PIECES)
            case 1:
                del page[at : at + chance.randint(1, 20)]
            case 2:
                page[at : at + 1] = bytes([chance.randint(0, 255)])
            case 3:
                other = chance.choice(SEEDS)
                page[at:at] = other[chance.randint(0, len(other)) :]
            case _:
                page *= 2
    return bytes(page)


def check(page: bytes) -> None:
    """Reads a page in all ways."""
    look = read_iterations(page)
    if look is not None:
        assert set(look) <= {"requests", "kv_tokens", "iteration"}, look
        assert all(type(one) is int and 0 <= one < 1 << 64 for one in look.values()), look
    try:
        content: Any = json.loads(page)
    except (ValueError, RecursionError):
        return
    for endpoint in read_clusters(content) or {}:
        assert endpoint.rpartition(":")[2].isdigit(), endpoint
    if isinstance(content, dict):
        try:
            found = hosts(content, SOURCE)
        except SourceError:
            found = ()
        assert all(one.replica.profile == "p" for one in found)
        entries = content.get("entries")
        read_runtime(entries if isinstance(entries, dict) else {})


def main() -> None:
    """Runs so many inputs from a seed that reproduces them."""
    inputs = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    chance = random.Random(seed)
    for number in range(inputs):
        page = mutate(chance)
        try:
            check(page)
        except Exception:
            print(f"input {number} of seed {seed}: {page[:2000]!r}")
            raise
    print(f"{inputs:,} pages, seed {seed}: nothing raised")


if __name__ == "__main__":
    main()
