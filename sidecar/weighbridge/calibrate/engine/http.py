"""A live replica, reached by OpenAI's interface over HTTP."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import aiohttp

from weighbridge.calibrate.engine import stats
from weighbridge.calibrate.engine.target import Activity, Answer, Ask, AskError, Facts, Stream
from weighbridge.errors import RefusedError
from weighbridge.net.page import PageError, found
from weighbridge.net.sse import Completion

Interface = Literal["chat", "completions"]

PATHS: Mapping[Interface, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
}
# Asks an emulated replica for an answer of this length; others do not know it.
OUTPUT_TOKENS = "x-emulate-output-tokens"
ASK_SECONDS = 900.0
CONNECT_SECONDS = 10.0
STATISTICS_SECONDS = 5.0
PAGE_SECONDS = 30.0


class HttpStream:
    """A streamed answer: a task reads it and notes when each token came."""

    def __init__(self, target: "HttpTarget", ask: Ask) -> None:
        self.times: list[float] = []
        self._target = target
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._read(ask))

    async def wait(self, tokens: int) -> bool:
        """Waits for so many tokens; False if the stream ended before."""
        while len(self.times) < tokens:
            if self._task.done():
                # Raises what broke it, if something did.
                self._task.result()
                return False
            self._news.clear()
            await self._news.wait()
        return True

    async def finish(self) -> Answer:
        """Waits for the end."""
        return await self._task

    async def _read(self, ask: Ask) -> Answer:
        try:
            return await self._target.stream(ask, self._arrived)
        finally:
            self._news.set()

    def _arrived(self, at_ms: float, tokens: int) -> None:
        self.times.extend([at_ms] * tokens)
        self._news.set()


class HttpTarget:
    """One replica. `time_scale` is how much faster than real its clock runs (an emulator's)."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        model: str,
        *,
        interface: Interface = "chat",
        time_scale: float = 1.0,
    ) -> None:
        self._session = session
        self._url = url
        self.model = model
        self.interface: Interface = interface
        self._scale = time_scale
        # Fields beyond OpenAI's that fix an answer's length; dropped if the replica refuses them.
        self._fixes_length = True

    @property
    def session(self) -> aiohttp.ClientSession:
        """For other routes of the same replica."""
        return self._session

    def now(self) -> float:
        """The replica's clock, ms."""
        return time.perf_counter() * 1000 * self._scale

    async def sleep(self, ms: float) -> None:
        """Waits, ms of the replica's clock."""
        await asyncio.sleep(ms / 1000 / self._scale)

    async def ask(self, ask: Ask) -> Answer:
        """Sends a request and waits for the whole answer, unstreamed."""
        start = self.now()
        try:
            async with self._post(ask, streamed=False) as response:
                body = await response.read()
                end = self.now()
                self._check(response, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise AskError(f"{self._url}: {type(error).__name__}: {error}") from None
        try:
            usage = json.loads(body).get("usage") or {}
        except (ValueError, AttributeError):
            raise AskError(f"{self._url}: the answer is no JSON object") from None
        return answer(usage, start, end, None)

    async def open(self, ask: Ask) -> Stream:
        """Sends a request and returns at once."""
        stream = HttpStream(self, ask)
        await asyncio.sleep(0)
        return stream

    async def stream(self, ask: Ask, arrived: "Arrived") -> Answer:
        """Reads a streamed answer to its end; `arrived` hears of every token."""
        start = self.now()
        events = Completion()
        first: float | None = None
        try:
            async with self._post(ask, streamed=True) as response:
                if response.status != 200:
                    self._check(response, await response.read())
                async for chunk in response.content.iter_any():
                    at = self.now()
                    tokens = events.feed(chunk)
                    if tokens:
                        first = at if first is None else first
                        arrived(at, tokens)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise AskError(f"{self._url}: {type(error).__name__}: {error}") from None
        if not events.done:
            raise AskError(f"{self._url}: a stream ended before [DONE]")
        return answer(events.usage, start, self.now(), first)

    def _post(self, ask: Ask, *, streamed: bool) -> "aiohttp.client._RequestContextManager":
        return self._session.post(
            self._url + PATHS[self.interface],
            data=json.dumps(self._body(ask, streamed=streamed)),
            headers={"content-type": "application/json", OUTPUT_TOKENS: str(ask.output)},
        )

    def _body(self, ask: Ask, *, streamed: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "max_tokens": ask.output, "temperature": 1.0}
        if self._fixes_length:
            body |= {"min_tokens": ask.output, "ignore_eos": True}
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.interface == "completions":
            body["prompt"] = f"{ask.shared} {ask.own}" if ask.shared else ask.own
            return body
        messages: list[dict[str, Any]] = []
        if ask.shared:
            messages.append({"role": "system", "content": ask.shared})
        if ask.images:
            parts: list[dict[str, Any]] = [
                {"type": "image_url", "image_url": {"url": url}} for url in ask.images
            ]
            messages.append(
                {"role": "user", "content": [*parts, {"type": "text", "text": ask.own}]}
            )
        else:
            messages.append({"role": "user", "content": ask.own})
        return body | {"messages": messages}

    def _check(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        if response.status != 200:
            text = body[:300].decode("utf-8", "replace")
            raise AskError(f"{self._url}: {response.status}: {text}", response.status)

    async def settle_interface(self, ask: Ask) -> None:
        """Finds out which interface and which fields the replica takes, with one short request."""
        for interface in ("chat", "completions"):
            for fixes_length in (True, False):
                self.interface = interface
                self._fixes_length = fixes_length
                try:
                    await self.ask(ask)
                except AskError as error:
                    if not error.is_refusal:
                        raise
                    refusal = error
                else:
                    return
        raise refusal

    @property
    def fixes_length(self) -> bool:
        """Whether the replica takes the fields that fix an answer's length."""
        return self._fixes_length

    async def activity(self) -> Activity | None:
        """None when the replica keeps no statistics that we can read."""
        told = await self.statistics()
        if isinstance(told, list):
            return stats.record_activity(told)
        return None if told is None else stats.gauge_activity(told)

    async def statistics(self) -> list[dict[str, Any]] | dict[str, float] | None:
        """What `/metrics` holds now: records since the last call, or gauges."""
        try:
            async with self._session.get(
                self._url + "/metrics", timeout=aiohttp.ClientTimeout(total=STATISTICS_SECONDS)
            ) as response:
                return stats.parse(await response.text()) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    async def facts(self) -> Facts:
        """What the replica says of itself; best asked right after some requests."""
        told = await self.statistics()
        numbers: dict[str, int] = {}
        has_activity = False
        if isinstance(told, list):
            numbers = stats.record_facts(told)
            has_activity = bool(told)
        elif told is not None:
            numbers = stats.gauge_facts(told)
            has_activity = stats.gauge_activity(told) is not None
        listed = next(
            (m for m in await models(self._session, self._url) if m.get("id") == self.model), {}
        )
        length = stats.whole(listed.get("max_model_len"))
        return Facts(
            model=self.model,
            max_model_len=length or None,
            has_activity=has_activity,
            version=await version(self._session, self._url),
            **numbers,
        )


class Arrived(Protocol):
    """The type of what hears of tokens: called with the time, ms, and their number."""

    def __call__(self, at_ms: float, tokens: int) -> None: ...


def answer(usage: Mapping[str, Any], start: float, end: float, first: float | None) -> Answer:
    """An answer with what its usage tells."""
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return Answer(
        start_ms=start,
        end_ms=end,
        first_ms=first,
        prompt_tokens=stats.whole(usage.get("prompt_tokens")),
        cached_tokens=None if cached is None else stats.whole(cached),
        output_tokens=stats.whole(usage.get("completion_tokens")),
    )


async def models(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """What `/v1/models` lists. RefusedError when there is no such replica."""
    try:
        body = await found(session, f"{url}/v1/models", PAGE_SECONDS)
    except PageError as error:
        raise RefusedError(f"no replica answers: {error}") from None
    data = body.get("data") if isinstance(body, dict) else None
    return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []


async def version(session: aiohttp.ClientSession, url: str) -> str:
    """What `/version` says, or nothing."""
    try:
        body = await found(session, f"{url}/version", PAGE_SECONDS)
    except PageError:
        return ""
    return str(body.get("version", "")) if isinstance(body, dict) else ""


class Connection:
    """Keeps the HTTP session of a target: `async with Connection(url, …) as target`."""

    def __init__(self, url: str, model: str | None, time_scale: float) -> None:
        self._url = url.rstrip("/")
        self._model = model
        self._scale = time_scale
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpTarget:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=ASK_SECONDS, sock_connect=CONNECT_SECONDS),
        )
        try:
            return HttpTarget(
                self._session, self._url, await self._find_model(), time_scale=self._scale
            )
        except BaseException:
            await self._session.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def _find_model(self) -> str:
        assert self._session is not None  # noqa: S101
        served = [str(model.get("id")) for model in await models(self._session, self._url)]
        if self._model is not None:
            if served and self._model not in served:
                raise RefusedError(f"{self._url} serves {', '.join(served)}, not '{self._model}'")
            return self._model
        if len(served) != 1:
            raise RefusedError(
                f"{self._url} serves {', '.join(served) or 'no model'}: say which with --model"
            )
        return served[0]
