"""What replicas publish of themselves."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from weighbridge.calibrate.engine import stats

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{model_name="m"} 3.0
vllm:num_requests_waiting{model_name="m"} 2.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="1000",cache_dtype="auto"} 1.0
"""


def record(number: int, **batching: int) -> dict[str, Any]:
    """A record as trtllm-serve gives it."""
    return {
        "iter": number,
        "iterLatencyMS": 5.5,
        "numActiveRequests": 4,
        "maxNumActiveRequests": 256,
        "maxNumTokensRuntime": 8192,
        "kvCacheStats": {"maxNumBlocks": 100, "tokensPerBlock": 32},
        "inflightBatchingStats": {"numGenRequests": 3} | batching,
    }


def test_iteration_records_tell_limits_and_load() -> None:
    found = stats.parse(json.dumps([record(1), record(2, numContextRequests=1, numCtxTokens=70)]))
    assert isinstance(found, list)
    assert stats.record_facts(found) == {
        "kv_tokens": 3200,
        "block_tokens": 32,
        "max_batch_size": 256,
        "max_num_tokens": 8192,
    }
    activity = stats.record_activity(found)
    assert activity.active == 4
    assert [one.context_tokens for one in activity.iterations] == [0, 70]
    assert activity.iterations[1].latency_ms == 5.5


def test_prometheus_text_tells_load_and_capacity() -> None:
    found = stats.parse(VLLM)
    assert isinstance(found, dict)
    activity = stats.gauge_activity(found)
    assert activity is not None
    assert activity.active == 5
    assert stats.gauge_facts(found) == {"kv_tokens": 16_000, "block_tokens": 16}


def test_other_answers_tell_nothing() -> None:
    assert stats.parse("<html>not found</html>") is None
    assert stats.parse("[{") is None
    assert stats.parse("") is None
    assert stats.parse("[]") == []


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(("iter", "iterLatencyMS", "numActiveRequests", "maxNumTokensRuntime")),
        json_values,
    )
)
def test_strange_records_do_no_harm(strange: dict[str, Any]) -> None:
    activity = stats.record_activity([strange])
    assert activity.active >= 0
    assert stats.record_facts([strange]).get("max_num_tokens", 1) > 0
