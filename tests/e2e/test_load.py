"""`weighbridge load`: a trace's traffic through any gateway, and what is said of it."""

import asyncio
import json
from typing import Any

import pytest

from tests.e2e.harness import Running
from weighbridge.config.listen import Transport
from weighbridge.lab.stack import weighbridge


@pytest.fixture
def transport() -> Transport:
    """One of them: the client is the same."""
    return "native"


async def load(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *weighbridge("load", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_traffic_shows_caches_and_who_served(running: Running) -> None:
    stack = running.stack
    known = ("--model", stack.model, "--speed", "50", "--json", "-")
    for more in (("--requests", "40"), ("--requests", "30", "--generate", "seed=7")):
        code, out, err = await load(stack.url, *known, *more)
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        assert found["ok"] == found["requests"] == int(more[1])
        served = {one["endpoint"]: one for one in found["replicas"]}
        assert set(served) <= set(stack.endpoints)
        assert sum(one["requests"] for one in served.values()) == found["requests"]
        assert sum(one["cached_tokens"] for one in served.values()) > 0
        assert "answered" in err


async def test_what_is_refused_is_counted_and_said(running: Running) -> None:
    url = running.stack.url
    code, out, err = await load(url, "--model", "nobody", "--requests", "3", "--speed", "1000")
    assert code == 1, err
    assert "0 of 3 answered" in out
    assert "model_not_found" in " ".join(out.split())
    for wrong, expected in (
        ((f"{url}/v1", "--model", "m"), "give the gateway's address alone"),
        ((url, "--model", "m", "--requests", "100000"), "requests, not 100000"),
    ):
        code, _, err = await load(*wrong)
        assert (code, err.count("\n")) == (1, 1)
        assert expected in err
