"""Asks Envoy's admin port, with a bound on what is read and how long it may take."""

import json
from typing import Any

import aiohttp

from weighbridge.errors import RefusedError

MOST_BYTES = 64 << 20
ANSWER_SECONDS = 2.0


class EnvoyAdminError(RefusedError):
    """Envoy's admin port does not answer, or not as it should."""


def session() -> aiohttp.ClientSession:
    """A client whose requests end soon."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))


async def page(client: aiohttp.ClientSession, address: str, path: str) -> dict[str, Any]:
    """A page's JSON object. EnvoyAdminError says what went wrong."""
    text = bytearray()
    try:
        async with client.get(f"http://{address}{path}") as response:
            response.raise_for_status()
            async for piece in response.content.iter_chunked(1 << 16):
                text += piece
                if len(text) > MOST_BYTES:
                    raise EnvoyAdminError(f"{address}{path}: more than {MOST_BYTES:,} bytes")
        content = json.loads(text)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise EnvoyAdminError(f"{address}{path}: {reason}") from None
    if not isinstance(content, dict):
        raise EnvoyAdminError(f"{address}{path}: is no JSON object")
    return content
