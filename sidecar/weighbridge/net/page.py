"""JSON over HTTP, asked for within bounds: of time, of size, of what the parser bears."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp

from weighbridge.errors import RefusedError
from weighbridge.net import outside

MOST_BYTES = 64 << 20
LARGE_BYTES = 256 << 10


class PageError(RefusedError):
    """There is no such page, or not as it should be. The message begins with its URL."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: its status, and its JSON."""

    status: int
    content: Any


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    seconds: float,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    most_bytes: int = MOST_BYTES,
) -> Page:
    """Asks for a page, or posts a body. PageError says what went wrong, other than its status."""
    method, data = ("GET", None) if body is None else ("POST", BytesIO(body))
    timeout = aiohttp.ClientTimeout(total=seconds)
    text = bytearray()
    try:
        async with session.request(
            method, url, data=data, headers=headers, timeout=timeout, allow_redirects=False
        ) as answer:
            async for piece in answer.content.iter_chunked(1 << 16):
                text += piece
                if len(text) > most_bytes:
                    raise PageError(f"{url}: more than {most_bytes:,} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise PageError(f"{url}: {str(error) or type(error).__name__}") from None
    try:
        # A large one is read on a thread of its own: it takes a while.
        if len(text) > LARGE_BYTES:
            content = await asyncio.to_thread(outside.read_json, bytes(text))
        else:
            content = outside.read_json(bytes(text))
    except RefusedError as error:
        # An error's page is often no JSON; its status says more.
        if answer.status != 200:
            raise PageError(f"{url}: status {answer.status}") from None
        raise PageError(f"{url}: {error}") from None
    return Page(answer.status, content)


async def found(session: aiohttp.ClientSession, url: str, seconds: float) -> Any:
    """The JSON of a page that is there. PageError says what went wrong."""
    page = await ask(session, url, seconds)
    if page.status != 200:
        raise PageError(f"{url}: status {page.status}")
    return page.content
