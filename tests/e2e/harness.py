"""What the end-to-end tests do with a stack: send, look, break, wait."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp

from weighbridge.lab.processes import Family
from weighbridge.lab.stack import Stack
from weighbridge.shapes import Decision

SETTLE_SECONDS = 20.0


class Running:
    """A stack that runs, and a client in front of it."""

    def __init__(self, stack: Stack, family: Family, client: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.family = family
        self.client = client

    def chat(self, text: str = "hello", **fields: Any) -> dict[str, Any]:
        """A chat completion's body."""
        content = {"model": self.stack.model, "messages": [{"role": "user", "content": text}]}
        return content | {"max_tokens": 8} | fields

    async def post(
        self,
        body: dict[str, Any] | bytes | AsyncIterator[bytes] | None,
        headers: dict[str, str] | None = None,
        path: str = "/v1/chat/completions",
    ) -> "Reply":
        """Sends a request through Envoy and reads the whole answer."""
        kind = {"content-type": "application/json"} | (headers or {})
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        data = BytesIO(body) if isinstance(body, bytes) else body
        async with self.client.post(path, data=data, headers=kind) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def settled(self) -> None:
        """Waits until nothing is in flight: no stream, and every ledger at exactly zero."""
        await until(self._is_settled)

    async def _is_settled(self) -> bool:
        status = await self.stack.status()
        carried = [
            replica[key]
            for replica in status["replicas"]
            for key in ("requests", "prefill_mu", "decode_mu", "kv_tokens")
        ]
        return status["streams"] == 0 and not any(carried)

    async def fault(self, replica: int, **fault: Any) -> None:
        """Makes an emulated replica suffer."""
        url = f"http://127.0.0.1:{self.stack.ports.control}/replicas/{replica}/fault"
        async with aiohttp.ClientSession() as session, session.post(url, json=fault) as response:
            assert response.status == 200, await response.text()

    async def decision_of(self, reply: "Reply") -> Decision:
        """The sidecar's decision on the request of a reply."""
        wanted = reply.headers["x-request-id"]
        found = [one for one in await self.stack.decisions() if one["request_id"] == wanted]
        assert len(found) == 1
        return found[0]


class Reply:
    """A whole answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    @property
    def replica(self) -> str:
        """Who served."""
        return self.headers.get("x-served-by", "")


def usage_of(body: bytes) -> tuple[int, int]:
    """Prompt and output tokens, as a client reads them."""
    usage: dict[str, int] = {}
    if body.startswith(b"data:"):
        for line in body.decode().splitlines():
            if line.startswith("data: {"):
                usage = json.loads(line.removeprefix("data: ")).get("usage") or usage
    else:
        usage = json.loads(body)["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def usage_lines(path: Path) -> list[dict[str, Any]]:
    """The usage log so far."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def memory(running: Running, key: str = "VmRSS") -> float:
    """The sidecar's memory, bytes: `VmRSS` now, `VmHWM` at most so far."""
    pid = running.family.running("serve").pid
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(f"{key}:"))
    return float(found.split()[1]) * 1024


async def until(condition: Callable[[], Any], seconds: float = SETTLE_SECONDS) -> None:
    """Waits for a condition, plain or asynchronous; fails when it does not come true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert asyncio.get_running_loop().time() < deadline, "it did not come true in time"
        await asyncio.sleep(0.05)


Starter = Callable[..., contextlib.AbstractAsyncContextManager[Running]]
