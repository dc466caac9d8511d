"""What comes from outside over HTTP, read within bounds."""

import asyncio
from typing import Any

import orjson
from aiohttp import web

from weighbridge.errors import RefusedError

# A sender that is slower holds a place that others may want.
SECONDS = 10.0


async def body(request: web.Request, most: int) -> bytes:
    """A request's body. It answers 413 beyond `most` bytes, and 408 where they do not come."""
    too_large = f"the body may have {most:,} bytes"
    if (request.content_length or 0) > most:
        raise web.HTTPRequestEntityTooLarge(most, text=too_large)
    content = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.content.iter_any():
                content += part
                if len(content) > most:
                    raise web.HTTPRequestEntityTooLarge(most, text=too_large)
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not come in {SECONDS:g} s") from None
    return bytes(content)


def read_json(content: bytes) -> Any:
    """JSON from outside. RefusedError where it is none."""
    try:
        return orjson.loads(content)
    # Not UTF-8 or nested beyond what the parser bears, too.
    except orjson.JSONDecodeError as error:
        raise RefusedError(f"no JSON: {error}") from None


def json_answer(content: object, status: int = 200) -> web.Response:
    """An answer with JSON."""
    return web.Response(
        body=orjson.dumps(content),
        status=status,
        content_type="application/json",
        charset="utf-8",
    )


def require_text(text: str, key: str) -> str:
    """The text itself. RefusedError where it holds half a surrogate pair, which is no text."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RefusedError(f"{key}: is no text")
    return text
