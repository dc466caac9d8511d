"""The report: its sums are right, its keys are those that scripts read."""

import io
import json
import statistics
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from weighbridge.lab.report import explained, percentile, show, stickiness, summary
from weighbridge.lab.traffic import Outcome


def outcome(session: str, turn: int, replica: str, **more: Any) -> Outcome:
    fields: dict[str, Any] = {
        "number": 0,
        "session": session,
        "turn": turn,
        "status": 200,
        "error": None,
        "replica": replica,
        "request_id": f"{session}-{turn}",
        "ttft_ms": 10.0,
        "total_ms": 20.0,
        "prompt_tokens": 100,
        "cached_tokens": 40,
        "output_tokens": 5,
    }
    return Outcome(**(fields | more))


def decision(number: int, reason: str = "home", **more: Any) -> Any:
    fields: dict[str, Any] = {
        "number": number,
        "request_id": f"a-{number}",
        "session": "hash",
        "replica": "A",
        "reason": reason,
        "prompt_tokens": 100,
        "cached_tokens": number,
        "output_tokens": 256,
        "mu": 9.0,
        "prefill_mu": 4.0,
        "decode_mu": 5.0,
    }
    return fields | more


REPLICAS: Any = [
    {"endpoint": "A", "served": {"mu": 12.34}},
    {"endpoint": "B", "served": {"mu": 0}},
]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) <= share * len(values)


@given(st.lists(st.integers(0, 100), min_size=1).filter(lambda values: len(values) % 2 == 1))
def test_the_median_is_the_median(values: list[int]) -> None:
    assert percentile(values, 0.5) == statistics.median(values)


def test_stickiness_counts_later_turns_only() -> None:
    outcomes = [
        outcome("a", 2, "A"),
        outcome("a", 1, "A"),
        outcome("a", 3, "B"),
        outcome("b", 1, "B"),
        outcome("c", 1, "A"),
        outcome("c", 2, "A", error="broken"),
    ]
    assert stickiness(outcomes) == 0.5
    assert stickiness([outcome("a", 1, "A")]) is None


def test_the_json_has_the_promised_shape() -> None:
    outcomes = [
        outcome("a", 1, "A"),
        outcome("a", 2, "A", ttft_ms=30.0),
        outcome("b", 1, "", error="503: none", ttft_ms=None),
    ]
    result = json.loads(json.dumps(summary(["A", "B"], outcomes, REPLICAS, [decision(1)])))
    assert result["requests"] == 3
    assert result["ok"] == 2
    assert result["errors"] == [{"error": "503: none", "count": 1}]
    assert result["sessions"] == 2
    assert result["session_stickiness"] == 1.0
    assert result["replicas"][0] == {
        "endpoint": "A",
        "requests": 2,
        "mu": 12.3,
        "cached_tokens": 80,
        "prompt_tokens": 200,
        "ttft_p50_ms": 10.0,
        "ttft_p95_ms": 30.0,
    }
    assert result["replicas"][1]["ttft_p50_ms"] is None
    assert result["decisions"][0]["session"] == "a"
    assert result["decisions"][0]["served_by"] == "A"


def test_decisions_shown_cover_every_reason_and_the_extremes_in_order() -> None:
    decisions = [decision(number, mu=5.0 + number % 7) for number in range(1, 20)]
    decisions.append(decision(20, "spill_load", cached_tokens=0))
    decisions.append(decision(21, mu=900.0))
    decisions.append(decision(22, mu=1.0))
    decisions.append(decision(23, cached_tokens=99))
    shown = explained(decisions, [])
    assert len(shown) == 5
    assert [one["reason"] for one in shown].count("spill_load") == 1
    assert [one["mu"] for one in shown][-3:] == [900.0, 1.0, 9.0]
    assert shown[-1]["why"] == "its session's home; holds 99 of 100 prompt tokens"
    assert explained([], []) == []
    assert len(explained(decisions[:2], [])) == 2


def test_the_table_names_replicas_errors_and_reasons() -> None:
    outcomes = [outcome("a", 1, "A"), outcome("b", 1, "", error="503: none")]
    out = io.StringIO()
    show(
        summary(["A", "B"], outcomes, REPLICAS, [decision(1)]),
        10,
        Console(file=out, width=160),
    )
    text = out.getvalue()
    assert "1 of 2 answered, 2 sessions" in text
    assert "1 x 503: none" in text
    assert "holds 1 of 100 prompt tokens" in text
