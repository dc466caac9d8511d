"""Asks a running sidecar's admin pages, for commands."""

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from weighbridge.errors import RefusedError

ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Where its admin pages are, and the token that they ask for, if any."""

    url: str
    token: bytes | None = None

    async def page(self, path: str) -> Any:
        """A page's JSON. RefusedError says what went wrong."""
        url = f"{self.url.rstrip('/')}{path}"
        headers = {}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token.decode('ascii')}"
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                session.get(url) as answer,
            ):
                answer.raise_for_status()
                return json.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise RefusedError(f"{url}: {str(error) or type(error).__name__}") from None
