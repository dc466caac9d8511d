"""What if: the latest decisions become a trace, and the simulator answers."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge import _core
from weighbridge.admin.whatif import Question, answer, lines, repeated
from weighbridge.config.profiles import load_profile, locate
from weighbridge.errors import RefusedError

PROFILE = "llama-3.1-8b-fp8-h100"


def decision(number: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "at_us": number * 100_000,
        "tenant": "t",
        "session": f"s{number % 5}",
        "prompt_tokens": 400 + 100 * number,
        "cached_tokens": 64,
        "output_tokens": 50,
    } | more


def ask(decisions: list[dict[str, Any]], replicas: int, factor: float = 1) -> dict[str, Any]:
    profile = load_profile(locate(PROFILE, Path.cwd()))
    return answer(Question("m", replicas, factor), decisions, profile, _core.Progress())


def test_a_session_that_grows_goes_on_and_one_that_does_not_begins_anew() -> None:
    found = [
        json.loads(line)
        for line in lines(
            [
                decision(0, session="s", prompt_tokens=500),
                decision(1, session="s", prompt_tokens=700),
                decision(2, session="s", prompt_tokens=300),
            ]
        )
    ]
    assert [one["session"] for one in found] == ["0", "0", "2"]
    assert found[1]["messages"] == [
        {"role": "assistant", "tokens": 50},
        {"role": "user", "tokens": 150},
    ]
    assert found[2]["messages"][0] == {"role": "system", "content": "opening of t", "tokens": 64}


@given(
    st.lists(
        st.builds(
            decision,
            st.integers(0, 100),
            prompt_tokens=st.integers(0, 5000),
            cached_tokens=st.integers(0, 9000),
            output_tokens=st.integers(0, 3000),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_every_line_has_the_prompt_s_tokens(decisions: list[dict[str, Any]]) -> None:
    prompts: dict[str, int] = {}
    for line, one in zip(lines(decisions), decisions, strict=True):
        content = json.loads(line)
        tokens = [message["tokens"] for message in content["messages"]]
        assert all(count > 0 for count in tokens)
        session = content["session"]
        prompts[session] = prompts.get(session, 0) + sum(tokens)
        assert prompts[session] == max(2, one["prompt_tokens"])


def test_a_short_time_is_repeated_with_sessions_of_its_own() -> None:
    twice = [json.loads(line) for line in repeated([decision(0), decision(1)], 10, 2)]
    assert [one["at_s"] for one in twice] == [0, 0.1, 10, 10.1]
    assert len({one["session"] for one in twice}) == 4


def test_more_load_on_fewer_replicas_is_slower() -> None:
    decisions = [decision(number) for number in range(100)]
    waits = [
        ask(decisions, replicas, factor)["row"]["ttft_p99_ms"]
        for replicas, factor in ((8, 1), (1, 1), (1, 8))
    ]
    assert all(less <= more for less, more in pairwise(waits))
    assert waits[0] < waits[2]


def test_what_cannot_be_answered_is_said() -> None:
    with pytest.raises(RefusedError, match="only 3 of the latest decisions"):
        ask([decision(number) for number in range(3)], 4)
    unknown = {"name": "mine", "models": ["m"]}
    with pytest.raises(RefusedError, match="no engine called 'mine'"):
        answer(
            Question("m", 1, 1),
            [decision(number) for number in range(30)],
            unknown,
            _core.Progress(),
        )
