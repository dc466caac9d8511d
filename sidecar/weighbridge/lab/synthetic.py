"""Makes the small trace that the package ships: `python -m weighbridge.lab.synthetic > FILE`.

In Mooncake's form: sessions of several turns whose prompts grow, under one system prompt, some of
them about a long document that several sessions share.
"""

import json
import random
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any

from weighbridge.lab.traces import BLOCK_TOKENS

SEED = 20261
SESSIONS = 100
MINUTE_MS = 60_000
DOCUMENTS = 4
DOCUMENT_TOKENS = 6 * BLOCK_TOKENS


def rows(seed: int = SEED) -> list[dict[str, Any]]:
    """All rows, in order of time."""
    chance = random.Random(seed)  # noqa: S311
    ids = count()
    system = next(ids)
    documents = [
        [next(ids) for _ in range(DOCUMENT_TOKENS // BLOCK_TOKENS)] for _ in range(DOCUMENTS)
    ]
    found: list[dict[str, Any]] = []
    for _ in range(SESSIONS):
        opening = [system, *(chance.choice(documents) if chance.random() < 0.3 else [])]
        found.extend(_session(chance, ids, opening))
    return sorted(found, key=lambda row: int(row["timestamp"]))


def _session(
    chance: random.Random, ids: "count[int]", opening: list[int]
) -> Iterator[dict[str, Any]]:
    complete = list(opening)
    tokens = BLOCK_TOKENS * len(opening)
    at_ms = chance.uniform(0, MINUTE_MS)
    # A first block of its own tells sessions apart that share a document.
    tokens += BLOCK_TOKENS
    for _ in range(1 + min(7, int(chance.expovariate(1 / 3.5)))):
        tokens += int(min(8000, 40 + chance.lognormvariate(6.0, 1.1)))
        while (len(complete) + 1) * BLOCK_TOKENS <= tokens:
            complete.append(next(ids))
        output = int(min(800, 16 + chance.lognormvariate(5.0, 0.8)))
        yield {
            "timestamp": round(at_ms),
            "input_length": tokens,
            "output_length": output,
            # The last block is not complete, so that no other row can share it.
            "hash_ids": [*complete, next(ids)],
        }
        tokens += output
        at_ms += 1500 + 20 * output + chance.expovariate(1 / 4000)


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write(json.dumps(row) + "\n")
