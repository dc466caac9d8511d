"""Asks Envoy's admin port, with a bound on what is read and how long it may take."""

import asyncio
import json
from typing import Any

import aiohttp

from weighbridge.errors import RefusedError

CLUSTERS = "/clusters?format=json"
MOST_BYTES = 64 << 20
LARGE_BYTES = 256 << 10
ANSWER_SECONDS = 2.0


class EnvoyAdminError(RefusedError):
    """Envoy's admin port does not answer, or not as it should."""


def session() -> aiohttp.ClientSession:
    """A client whose requests end soon."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))


async def page(
    client: aiohttp.ClientSession,
    address: str,
    path: str,
    timeout_seconds: float = ANSWER_SECONDS,
) -> dict[str, Any]:
    """A page's JSON object. EnvoyAdminError says what went wrong."""
    text = bytearray()
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    try:
        async with client.get(
            f"http://{address}{path}", timeout=timeout, allow_redirects=False
        ) as response:
            async for piece in response.content.iter_chunked(1 << 16):
                text += piece
                if len(text) > MOST_BYTES:
                    raise EnvoyAdminError(f"{address}{path}: more than {MOST_BYTES:,} bytes")
            if response.status != 200:
                raise EnvoyAdminError(f"{address}{path}: status {response.status}")
        # A large one is read on a thread of its own: it takes a while.
        is_large = len(text) > LARGE_BYTES
        content = await asyncio.to_thread(json.loads, text) if is_large else json.loads(text)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise EnvoyAdminError(f"{address}{path}: {reason}") from None
    if not isinstance(content, dict):
        raise EnvoyAdminError(f"{address}{path}: is no JSON object")
    return content
