"""Asks a running sidecar's admin pages, for commands."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp

from weighbridge.errors import ConfigError, RefusedError
from weighbridge.net import outside

ANSWER_SECONDS = 5.0
JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Where its admin pages are, and what they ask for: a token, TLS, a client's certificate."""

    url: str
    token: bytes | None = None
    tls: ssl.SSLContext | None = None

    async def page(self, path: str) -> Any:
        """A page's JSON. RefusedError says what went wrong."""
        async with self._asking("GET", path, None, ANSWER_SECONDS) as answer:
            answer.raise_for_status()
            return outside.read_json(await answer.read())

    async def post(
        self, path: str, content: bytes = b"", seconds: float = ANSWER_SECONDS
    ) -> tuple[int, Any]:
        """Posts JSON; the status and the JSON of the answer. RefusedError where there is none."""
        async with self._asking("POST", path, content, seconds) as answer:
            return answer.status, outside.read_json(await answer.read())

    @asynccontextmanager
    async def _asking(
        self, method: str, path: str, content: bytes | None, seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = f"{self.url.rstrip('/')}{path}"
        data = None if content is None else BytesIO(content)
        headers = {} if content is None else dict(JSON)
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token.decode('ascii')}"
        timeout = aiohttp.ClientTimeout(total=seconds)
        connector = aiohttp.TCPConnector(ssl=self.tls or True)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
                session.request(method, url, data=data, headers=headers) as answer,
            ):
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise RefusedError(f"{url}: {str(error) or type(error).__name__}") from None
        except RefusedError as error:
            raise RefusedError(f"{url}: {error}") from None


def problem_of(answer: object) -> str:
    """What an answer says is wrong."""
    return str(answer.get("error", "")) if isinstance(answer, dict) else ""


def client_tls(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """TLS that believes an authority and shows a certificate; None where none of it is given.

    ConfigError names the option and the file.
    """
    if key is not None and cert is None:
        raise ConfigError("--key: goes with --cert")
    if ca is None and cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--ca: {ca}: {error.strerror or error}") from None
    if cert is not None:
        try:
            # A password would be asked for on the terminal; an empty one fails instead.
            context.load_cert_chain(cert, key, password="")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"--cert: {cert}: {error.strerror or error}") from None
    return context
