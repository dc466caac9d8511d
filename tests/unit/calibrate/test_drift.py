"""A profile against live traffic."""

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.calibrate.virtual import Hidden, VirtualReplica, run
from weighbridge.calibrate import drift
from weighbridge.calibrate.drift import Entry
from weighbridge.calibrate.engine.target import Ask
from weighbridge.errors import RefusedError

PROFILE: dict[str, Any] = {
    "name": "p",
    "latency": {
        "prefill_base_ms": 4.7,
        "prefill_per_tok_ms": 0.0127,
        "prefill_per_tok2_e6_ms": 0.53,
        "decode_base_ms": 5.2,
        "decode_per_seq_ms": 0.007,
        "decode_per_ktok_ctx_ms": 0.0216,
    },
}


def hidden(steps: float = 1.0, prompts: float = 1.0) -> Hidden:
    """An engine that is slower than the profile by these factors."""
    return Hidden(
        prefill_base=4.7 * prompts,
        per_tok=0.0127 * prompts,
        per_tok2_e6=0.53 * prompts,
        decode_base=5.2 * steps,
        per_seq=0.007 * steps,
        per_ktok=0.0216 * steps,
    )


def traffic(engine: Hidden, requests: int = 200, a_second: float = 8.0) -> list[Entry]:
    """Poisson arrivals of mixed requests, as a usage log has them."""

    async def serve() -> list[Entry]:
        replica = VirtualReplica(engine, 1)
        chance = random.Random(1)
        entries: list[Entry] = []

        async def one(prompt: int, output: int) -> None:
            begin = replica.now()
            stream = await replica.open(Ask(own="w " * prompt, output=output))
            answer = await stream.finish()
            entries.append(
                Entry(
                    time=begin / 1000,
                    replica="10.0.0.1:8000",
                    prompt_tokens=answer.prompt_tokens,
                    output_tokens=output,
                    first_ms=stream.times[0] - begin,
                    total_ms=answer.end_ms - begin,
                )
            )

        async with asyncio.TaskGroup() as group:
            for _ in range(requests):
                await replica.sleep(1000 * chance.expovariate(a_second))
                prompt, output = chance.lognormvariate(6.3, 1.0), chance.lognormvariate(4.3, 0.7)
                group.create_task(one(int(prompt) + 1, int(output) + 2))
        return entries

    return run(serve())


@pytest.mark.parametrize("a_second", [1.0, 15.0])
def test_a_true_profile_holds_at_any_load(a_second: float) -> None:
    found = drift.check(PROFILE, traffic(hidden(), a_second=a_second))
    assert found.verdict == "the profile holds"
    assert not found.recalibrate
    assert found.decode.value == pytest.approx(1.0, abs=0.03)


def test_slower_steps_are_told() -> None:
    found = drift.check(PROFILE, traffic(hidden(steps=1.3)))
    assert found.recalibrate
    # The prompts in between were as fast as ever.
    assert 1.2 < found.decode.value < 1.32
    assert "slower than the profile says: calibrate again" in found.verdict
    assert found.by_replica["10.0.0.1:8000"].state == "is off"


def test_slower_prompts_are_told_apart_from_steps() -> None:
    found = drift.check(PROFILE, traffic(hidden(prompts=1.5), a_second=1.0))
    assert found.prefill.value == pytest.approx(1.5, abs=0.1)
    assert "prompts are" in found.verdict
    assert "steps" not in found.verdict


def test_a_small_drift_can_wait() -> None:
    found = drift.check(PROFILE, traffic(hidden(steps=1.15)))
    assert not found.recalibrate
    assert found.verdict.endswith("calibrate again when it suits")


def test_a_few_requests_prove_nothing() -> None:
    found = drift.check(PROFILE, traffic(hidden(steps=2.0), requests=10))
    assert not found.recalibrate
    assert "too few" in found.verdict
    assert drift.check(PROFILE, []).verdict.startswith("too few")


def test_the_log_may_carry_more_and_be_cut_short(tmp_path: Path) -> None:
    entry = {
        "time": 1.5,
        "replica": "r",
        "prompt_tokens": 5,
        "output_tokens": 2,
        "total_ms": 9.5,
        "tenant": "t",
        "first_ms": None,
    }
    lines = [
        json.dumps(entry),
        json.dumps(entry | {"profile": "other"}),
        json.dumps(entry | {"profile": "p"}),
        json.dumps(entry | {"status": 503}),
        json.dumps({"time": 1.5, "event": "rotated"}),
        "[]",
        json.dumps(entry)[:20],
    ]
    log = tmp_path / "usage.jsonl"
    log.write_text("\n".join(lines))
    assert len(drift.read([log], "p")) == 2


def test_the_sidecars_own_records_are_read(tmp_path: Path) -> None:
    record = {
        "number": 7,
        "replica": "10.0.0.1:8000",
        "status": 200,
        "prompt_tokens": 100,
        "cached_tokens": 64,
        "output_tokens": 50,
        "source": "usage",
        "first_token_ms": 30.0,
        "duration_ms": 400.0,
        "ended_us": 5_000_000,
    }
    log = tmp_path / "usage.jsonl"
    lines = [record, record | {"source": "estimate"}, record | {"status": 0}]
    log.write_text("\n".join(map(json.dumps, lines)))
    (entry,) = drift.read([log], "p")
    assert (entry.time, entry.first_ms, entry.total_ms) == (4.6, 30.0, 400.0)
    assert entry.cached_tokens == 64


def test_replies_in_one_piece_tell_nothing_of_steps() -> None:
    whole = [replace(entry, first_ms=entry.total_ms - 0.1) for entry in traffic(hidden())]
    assert drift.check(PROFILE, whole).decode.requests == 0


def test_what_is_wrong_in_a_log_is_named(tmp_path: Path) -> None:
    log = tmp_path / "usage.jsonl"
    log.write_text('{"time":1,"replica":"r","prompt_tokens":-1,"output_tokens":1,"total_ms":1}\n')
    with pytest.raises(RefusedError, match=r"usage.jsonl:1: prompt_tokens"):
        drift.read([log], "p")
    with pytest.raises(RefusedError, match="missing"):
        drift.read([tmp_path / "missing"], "p")


def test_a_profile_without_latency_cannot_be_checked() -> None:
    with pytest.raises(RefusedError, match="no latency section"):
        drift.check({"name": "x"}, [])
