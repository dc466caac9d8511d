"""Sends the requests of a trace and notes what came back: who served, how soon, how much."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp

from weighbridge.lab.traces import TraceRequest
from weighbridge.net.sse import Completion

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
SERVED_BY = "x-served-by"
REQUEST_ID = "x-request-id"
# Asks an emulated replica for an answer of this length; others do not know it.
OUTPUT_TOKENS = "x-emulate-output-tokens"
REQUEST_SECONDS = 300.0

# More headers for a request, such as one that names its session.
Headers = Callable[[TraceRequest], Mapping[str, str]]


def output_tokens(request: TraceRequest) -> Mapping[str, str]:
    """Asks an emulated replica for an answer as long as the trace's."""
    return {OUTPUT_TOKENS: str(request.output_tokens)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    number: int
    session: str
    turn: int
    status: int
    error: str | None
    replica: str
    request_id: str
    ttft_ms: float | None
    total_ms: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def is_ok(self) -> bool:
        """Whether the whole answer came."""
        return self.error is None


@dataclass(slots=True)
class Answer:
    """What is read of one response."""

    status: int = 0
    replica: str = ""
    request_id: str = ""
    first_token_at: float | None = None
    usage: dict[str, Any] | None = None
    error: str | None = None


async def drive(
    url: str,
    model: str,
    requests: Iterable[TraceRequest],
    speed: float,
    on_done: Callable[[Outcome], None],
    *,
    headers: Headers = output_tokens,
) -> list[Outcome]:
    """Sends each request at its time ÷ speed, a session's turn only after the turn before it."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        start = time.monotonic()
        last_turn: dict[str, asyncio.Task[Outcome]] = {}
        tasks: list[asyncio.Task[Outcome]] = []

        async def turn(request: TraceRequest, before: asyncio.Task[Outcome] | None) -> Outcome:
            await asyncio.sleep(start + request.at_seconds / speed - time.monotonic())
            if before is not None:
                await asyncio.wait({before})
            outcome = await send(session, model, request, headers(request))
            on_done(outcome)
            return outcome

        async with asyncio.TaskGroup() as group:
            for request in requests:
                task = group.create_task(turn(request, last_turn.get(request.session)))
                last_turn[request.session] = task
                tasks.append(task)
    return [task.result() for task in tasks]


async def send(
    session: aiohttp.ClientSession,
    model: str,
    request: TraceRequest,
    headers: Mapping[str, str],
) -> Outcome:
    """Sends one request and reads its whole answer."""
    start = time.monotonic()
    answer = Answer()
    try:
        async with session.post(
            EMBEDDINGS if request.kind == "embeddings" else CHAT,
            data=BytesIO(request.body(model)),
            headers={"content-type": "application/json", **headers},
        ) as response:
            answer.status = response.status
            answer.replica = response.headers.get(SERVED_BY, "")
            answer.request_id = response.headers.get(REQUEST_ID, "")
            if response.status != 200:
                answer.error = f"{response.status}: {(await response.text())[:200]}"
            elif request.stream:
                await read_stream(response.content, answer)
            else:
                answer.usage = (await response.json()).get("usage")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    usage = answer.usage or {}
    first = answer.first_token_at
    return Outcome(
        number=request.number,
        session=request.session,
        turn=request.turn,
        status=answer.status,
        error=answer.error,
        replica=answer.replica,
        request_id=answer.request_id,
        ttft_ms=None if first is None else (first - start) * 1000,
        total_ms=(time.monotonic() - start) * 1000,
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
    )


async def read_stream(content: aiohttp.StreamReader, answer: Answer) -> None:
    """Reads server-sent events to `[DONE]`; notes the first token and the usage."""
    told = Completion()
    async for chunk in content.iter_any():
        if told.feed(chunk) and answer.first_token_at is None:
            answer.first_token_at = time.monotonic()
    answer.usage = told.usage or answer.usage
    if not told.done:
        answer.error = "the stream ended before [DONE]"
