"""Asks Envoy's admin port, with a bound on what is read and how long it may take."""

from typing import Any

import aiohttp

from weighbridge.errors import RefusedError
from weighbridge.net.page import PageError, found

CLUSTERS = "/clusters?format=json"
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
    try:
        content = await found(client, f"http://{address}{path}", timeout_seconds)
    except PageError as error:
        raise EnvoyAdminError(str(error).removeprefix("http://")) from None
    if not isinstance(content, dict):
        raise EnvoyAdminError(f"{address}{path}: is no JSON object")
    return content
