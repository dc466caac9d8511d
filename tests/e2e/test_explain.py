"""Explain against a running sidecar: what it says is what the next request is charged."""

from pathlib import Path

import pytest

import weighbridge
from tests.e2e.harness import Running
from weighbridge.admin import explain
from weighbridge.errors import RefusedError
from weighbridge.net.asking import Sidecar

EXAMPLES = sorted((Path(weighbridge.__file__).parent / "data" / "examples").glob("*.json"))


async def test_the_live_server_charges_what_explain_says(running: Running) -> None:
    for example in EXAMPLES:
        asked = explain.parse(example.read_bytes())
        found = await explain.ask_sidecar(Sidecar(running.stack.admin_url), asked)
        reply = await running.post(asked.body, dict(asked.headers), asked.path)
        decision = await running.decision_of(reply)
        terms = sum(found["cost"][term] for term in explain.COST_TERMS)
        assert decision["mu"] == pytest.approx(terms, abs=1e-6), example.stem
        assert decision["replica"] == found["chosen"], example.stem
        await running.settled()


async def test_explaining_changes_nothing(running: Running) -> None:
    asked = explain.parse(EXAMPLES[0].read_bytes())
    first = await explain.ask_sidecar(Sidecar(running.stack.admin_url), asked)
    assert await explain.ask_sidecar(Sidecar(running.stack.admin_url), asked) == first
    status = await running.stack.status()
    assert not any(replica["served"]["requests"] for replica in status["replicas"])


async def test_a_refusal_and_a_missing_sidecar_are_one_line(running: Running) -> None:
    asked = explain.parse(b'{"model":"nobody","messages":[{"role":"user","content":"x"}]}')
    with pytest.raises(explain.RefusedByCoreError, match="nobody"):
        await explain.ask_sidecar(Sidecar(running.stack.admin_url), asked)
    with pytest.raises(RefusedError, match="/explain"):
        await explain.ask_sidecar(Sidecar("http://127.0.0.1:1"), asked)
