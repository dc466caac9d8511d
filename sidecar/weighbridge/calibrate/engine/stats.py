"""Reads what replicas publish of themselves: TensorRT-LLM's records, or Prometheus text."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from weighbridge.calibrate.engine.target import Activity, Iteration

RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs", "trtllm_num_requests_running")
WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "trtllm_num_requests_waiting")


def parse(body: str) -> list[dict[str, Any]] | dict[str, float] | None:
    """Iteration records of trtllm-serve, or gauges by name; None of anything else."""
    text = body.lstrip()
    if text.startswith("["):
        try:
            records = json.loads(text)
        except ValueError:
            return None
        return [record for record in records if isinstance(record, dict)]
    try:
        return dict(prometheus(body)) or None
    except ValueError:
        return None


def prometheus(text: str) -> Iterable[tuple[str, float]]:
    """Samples of Prometheus text; of `…_info` metrics their numeric labels as `name.label`.

    ValueError where it is no such text.
    """
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, float(sample.value)
            if sample.name.endswith("_info"):
                for key, word in sample.labels.items():
                    if word.isascii() and word.isdigit():
                        yield f"{sample.name}.{key}", float(word)


def record_facts(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """KV capacity and limits from the latest iteration record that has them."""
    found: dict[str, int] = {}
    for record in records:
        kv = record.get("kvCacheStats") or {}
        blocks, size = whole(kv.get("maxNumBlocks")), whole(kv.get("tokensPerBlock"))
        if blocks and size:
            found["kv_tokens"] = blocks * size
            found["block_tokens"] = size
        batch = whole(record.get("maxBatchSizeRuntime")) or whole(
            record.get("maxNumActiveRequests")
        )
        if batch:
            found["max_batch_size"] = batch
        tokens = whole(record.get("maxNumTokensRuntime"))
        if tokens:
            found["max_num_tokens"] = tokens
    return found


def gauge_facts(gauges: Mapping[str, float]) -> dict[str, int]:
    """KV capacity where the Prometheus text of a vLLM-like server tells it."""
    blocks = gauges.get("vllm:cache_config_info.num_gpu_blocks")
    size = gauges.get("vllm:cache_config_info.block_size")
    if blocks and size:
        return {"kv_tokens": int(blocks * size), "block_tokens": int(size)}
    return {}


def record_activity(records: Sequence[Mapping[str, Any]]) -> Activity:
    """What these iterations were."""
    return Activity(
        active=max((whole(record.get("numActiveRequests")) for record in records), default=0),
        iterations=tuple(iteration(record) for record in records),
    )


def iteration(record: Mapping[str, Any]) -> Iteration:
    """One record of trtllm-serve's `/metrics`."""
    batching = record.get("inflightBatchingStats") or {}
    latency = record.get("iterLatencyMS")
    return Iteration(
        number=whole(record.get("iter")),
        latency_ms=float(latency) if isinstance(latency, int | float) else 0.0,
        context_requests=whole(batching.get("numContextRequests")),
        context_tokens=whole(batching.get("numCtxTokens")),
        generating=whole(batching.get("numGenRequests")),
    )


def gauge_activity(gauges: Mapping[str, float]) -> Activity | None:
    """How busy it is now, from gauges; None if they do not tell."""
    running = [gauges[name] for name in RUNNING if name in gauges]
    if not running:
        return None
    waiting = [gauges[name] for name in WAITING if name in gauges]
    return Activity(active=int(sum(running) + sum(waiting)))


def whole(value: object) -> int:
    """A count, or 0 of anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value < 1 << 53 else 0
