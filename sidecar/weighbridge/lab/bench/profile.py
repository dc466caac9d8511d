"""The profile that benchmarks weigh by: fixed, so that figures of two versions can be compared."""

from typing import Any

MODEL = "bench-8b"
NAME = "bench"


def profile() -> dict[str, Any]:
    """A model of 8 billion parameters on one H100, about."""
    return {
        "name": NAME,
        "models": [MODEL],
        "capacity_mu_per_min": 60_000.0,
        "kv_tokens": 520_000,
        "block_tokens": 32,
        "max_batch_size": 256,
        "max_num_tokens": 8192,
        "reference_batch": 64.0,
        "cost": {
            "prefill_per_tok": 0.025,
            "prefill_per_tok2_e6": 0.3,
            "decode_per_tok": 0.12,
            "decode_per_ktok_ctx": 0.01,
            "overhead": 0.5,
        },
    }
