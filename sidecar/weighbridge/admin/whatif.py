"""What if there were more or fewer replicas, or another rate: the last minutes, simulated.

The latest decisions become a trace: their times, sessions, tenants, prompts and predicted outputs.
The simulator then runs our own policy on it.
"""

import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weighbridge import _core
from weighbridge.errors import RefusedError
from weighbridge.net.outside import require_text

MOST_REPLICAS = 1000
# A run is to end in seconds: this much work at most, whatever is asked.
MOST_REQUESTS = 20_000
LEAST_REQUESTS = 20
SHORTEST_S = 60.0
LONGEST_S = 300.0


@dataclass(frozen=True, slots=True)
class Question:
    """So many replicas, and the rate multiplied by so much."""

    model: str
    replicas: int
    rate_factor: float

    @classmethod
    def parse(cls, content: object) -> "Question":
        """From the page's JSON. RefusedError names the key that is wrong."""
        if not isinstance(content, dict):
            raise RefusedError("the question must be a JSON object")
        model, replicas = content.get("model"), content.get("replicas")
        factor = content.get("rate_factor", 1)
        if not isinstance(model, str):
            raise RefusedError("model: must be a model's name")
        require_text(model, "model")
        if isinstance(replicas, bool) or not isinstance(replicas, int):
            raise RefusedError("replicas: must be a whole number")
        if not 1 <= replicas <= MOST_REPLICAS:
            raise RefusedError(f"replicas: must be from 1 to {MOST_REPLICAS:,}")
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise RefusedError("rate_factor: must be a number")
        if not 0.01 <= factor <= 100:
            raise RefusedError("rate_factor: must be from 0.01 to 100")
        return cls(model, replicas, float(factor))


def answer(
    question: Question,
    decisions: Iterable[Mapping[str, Any]],
    profile: Mapping[str, Any],
    progress: _core.Progress,
) -> dict[str, Any]:
    """Runs the simulator; what it says of the question. RefusedError when it cannot."""
    names = {question.model, *profile["models"]}
    recent = [one for one in decisions if one["model"] in names]
    if len(recent) < LEAST_REQUESTS:
        raise RefusedError(
            f"only {len(recent)} of the latest decisions are for {question.model}; "
            f"{LEAST_REQUESTS} are needed"
        )
    if profile["name"] not in _core.engines():
        raise RefusedError(f"the simulator knows no engine called '{profile['name']}'")
    span_s = max(1.0, (recent[-1]["at_us"] - recent[0]["at_us"]) / 1e6)
    rate = len(recent) / span_s * question.rate_factor
    # A short time is repeated: the simulator measures only once its caches are warm.
    repeats = max(1, math.ceil(SHORTEST_S / span_s))
    duration = min(LONGEST_S, span_s * repeats, MOST_REQUESTS / rate)
    scenario = {
        "replicas": [
            {
                "engine": {"base": profile["name"]},
                "count": question.replicas,
                "profile": dict(profile),
                "domains": 1,
            }
        ],
        "warmup_s": duration / 5,
    }
    scaling = {"rate": rate, "duration_s": duration}
    try:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "recent.jsonl"
            file.write_text("\n".join(repeated(recent, span_s, repeats)) + "\n", encoding="utf-8")
            trace = _core.Trace.load(file)
        simulation = _core.Simulation(json.dumps(scenario), trace, json.dumps(scaling))
        ran = json.loads(simulation.run("weighbridge", rate, progress=progress))
    except _core.CoreError as error:
        raise RefusedError(str(error)) from None
    return {
        "model": question.model,
        "replicas": question.replicas,
        "rate_rps": rate,
        "seconds": duration,
        "decisions": len(recent),
        "row": ran["row"],
    }


def repeated(decisions: Sequence[Mapping[str, Any]], span_s: float, repeats: int) -> Iterator[str]:
    """The decisions as a trace, so often in a row, each time with sessions of its own."""
    for copy in range(repeats):
        yield from lines(decisions, copy * span_s, f"{copy}:")


def lines(
    decisions: Iterable[Mapping[str, Any]], start_s: float = 0, prefix: str = ""
) -> Iterator[str]:
    """The decisions as a trace in the simulator's own format.

    A session whose prompt grows goes on; one whose prompt does not begins anew. What a session's
    first prompt had cached is an opening that its tenant's sessions share.
    """
    known: dict[str, tuple[str, int, int]] = {}
    first_us: int | None = None
    for number, one in enumerate(decisions):
        first_us = one["at_us"] if first_us is None else first_us
        prompt = max(2, one["prompt_tokens"])
        output = max(1, one["output_tokens"])
        key = f"{one['tenant']}\n{one['session']}"
        name, before, said = known.get(key, ("", 0, 0))
        if name and prompt > before + said:
            messages = [
                {"role": "assistant", "tokens": said},
                {"role": "user", "tokens": prompt - before - said},
            ]
        else:
            name = f"{prefix}{number}"
            messages = opening(one, prompt)
        known[key] = (name, prompt, output)
        yield json.dumps(
            {
                "at_s": start_s + max(0, one["at_us"] - first_us) / 1e6,
                "session": name,
                "tenant": one["tenant"],
                "output_tokens": output,
                "messages": messages,
            }
        )


def opening(decision: Mapping[str, Any], prompt: int) -> list[dict[str, Any]]:
    """The messages of a session's first request."""
    shared = min(decision["cached_tokens"], prompt - 1)
    user = {"role": "user", "tokens": prompt - shared}
    if shared <= 0:
        return [user]
    return [
        {"role": "system", "content": f"opening of {decision['tenant']}", "tokens": shared},
        user,
    ]
