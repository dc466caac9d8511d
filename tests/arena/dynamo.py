"""Puts NVIDIA Dynamo's selection service before OpenAI backends: asks it, then forwards.

python -m tests.arena.dynamo --selector URL --port PORT --model NAME --kv-tokens N WORKER...

The service decides, given hashes of the prompt's blocks; it has no data path of its own. What is
here, a small forwarder, is no part of Dynamo.
"""

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

BLOCK_TOKENS = 64
# Tokens of the arena's prompts are as long as this, whatever they are.
TOKEN_BYTES = 4
PREFILL_TOKENS = 8192
PASSED_ON = ("content-type", "x-served-by")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the service takes it: each block's hash, alone and with all before it."""

    tokens: int
    blocks: list[int]
    sequences: list[int]


def prompt_of(body: bytes) -> Prompt:
    """Cuts a chat, or what is to be embedded, into blocks."""
    content: dict[str, Any] = json.loads(body)
    messages: list[dict[str, Any]] = content.get("messages", [])
    said = "".join(f"{message['role']} {message['content']}\n" for message in messages)
    text = (said or str(content.get("input", ""))).encode()
    step = BLOCK_TOKENS * TOKEN_BYTES
    pieces = [text[at : at + step] for at in range(0, len(text) - step + 1, step)]
    chain = itertools.accumulate(pieces, lambda before, piece: digest(before + piece), initial=b"")
    return Prompt(
        tokens=max(1, len(text) // TOKEN_BYTES),
        blocks=[number(digest(piece)) for piece in pieces],
        sequences=[number(link) for link in list(chain)[1:]],
    )


def digest(data: bytes) -> bytes:
    """Eight bytes that stand for the data."""
    return hashlib.blake2b(data, digest_size=8).digest()


def number(hashed: bytes) -> int:
    """As the service's JSON has hashes."""
    return int.from_bytes(hashed, "little") >> 1


def worker(
    place: int, model: str, endpoint: str, block_tokens: int, kv_tokens: int
) -> dict[str, Any]:
    """A worker as the service wants it told."""
    return {
        "worker_id": place,
        "model_name": model,
        "endpoint": endpoint,
        "block_size": block_tokens,
        "data_parallel_start_rank": 0,
        "data_parallel_size": 1,
        "max_num_batched_tokens": PREFILL_TOKENS,
        "total_kv_blocks": kv_tokens // block_tokens,
    }


def service(python: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The service's command and environment. It keeps by itself what it has sent where."""
    return [python, "-m", "dynamo.select_service", "--port", str(port)], {
        "DYN_DISCOVERY_BACKEND": "mem",
        "DYN_ROUTER_USE_KV_EVENTS": "false",
        "DYN_LOG": "error",
    }


class Forwarder:
    """Asks the service for each request and forwards it to the worker that it names."""

    def __init__(self, selector: str, model: str) -> None:
        self._selector = selector
        self._model = model
        self._ids = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None

    async def start(self, workers: Sequence[str], kv_tokens: int) -> None:
        """Makes the workers known to the service, which must be up."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600)
        )
        for place, endpoint in enumerate(workers, 1):
            content = worker(place, self._model, endpoint, BLOCK_TOKENS, kv_tokens)
            await self._ask("POST", "/workers", content)

    async def close(self) -> None:
        """Ends all connections."""
        if self._session is not None:
            await self._session.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request, from the choice of its worker to the end of its answer."""
        body = await request.read()
        prompt = prompt_of(body)
        selection = f"s{next(self._ids)}"
        chosen = await self._ask(
            "POST",
            "/select_and_reserve",
            {
                "selection_id": selection,
                "model_name": self._model,
                "block_hashes": prompt.blocks,
                "sequence_hashes": prompt.sequences,
                "isl_tokens": prompt.tokens,
            },
        )
        try:
            return await self._forward(
                request, body, f"{chosen['endpoint']}{request.path}", selection
            )
        finally:
            await self._ask("DELETE", f"/reservations/{selection}")

    async def _forward(
        self, request: web.Request, body: bytes, url: str, selection: str
    ) -> web.StreamResponse:
        headers = {"content-type": "application/json"}
        async with self._open().post(url, data=body, headers=headers) as answer:
            passed = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=passed)
            await response.prepare(request)
            begun = False
            async for chunk in answer.content.iter_any():
                if not begun:
                    begun = True
                    await self._ask("POST", f"/reservations/{selection}/prefill_complete")
                await response.write(chunk)
            await response.write_eof()
            return response

    async def _ask(
        self, method: str, path: str, content: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        url = f"{self._selector}{path}"
        async with self._open().request(method, url, json=content) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
            return found

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the forwarder has not been started")
        return self._session


async def healthy(_: web.Request) -> web.Response:
    """It listens only once the service knows all workers."""
    return web.Response()


def main() -> int:
    """Runs until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.arena.dynamo", description=__doc__)
    parser.add_argument("--selector", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kv-tokens", type=int, required=True)
    parser.add_argument("workers", nargs="+")
    options = parser.parse_args()
    forwarder = Forwarder(options.selector, options.model)

    async def application() -> web.Application:
        await forwarder.start(options.workers, options.kv_tokens)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/health", healthy)
        app.router.add_post("/v1/chat/completions", forwarder.handle)
        app.router.add_post("/v1/embeddings", forwarder.handle)
        app.on_cleanup.append(lambda _: forwarder.close())
        return app

    web.run_app(application(), host="127.0.0.1", port=options.port, print=None, access_log=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
