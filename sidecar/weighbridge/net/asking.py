"""Asks a running sidecar's admin pages, for commands."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from weighbridge.errors import ConfigError, RefusedError
from weighbridge.net.page import Page, ask

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
        found = await self._ask(path, None, ANSWER_SECONDS)
        if found.status != 200:
            said = problem_of(found.content)
            raise RefusedError(f"{self._url_of(path)}: status {found.status} {said}")
        return found.content

    async def post(
        self, path: str, content: bytes = b"", seconds: float = ANSWER_SECONDS
    ) -> tuple[int, Any]:
        """Posts JSON; the status and the JSON of the answer. RefusedError where there is none."""
        found = await self._ask(path, content, seconds)
        return found.status, found.content

    async def _ask(self, path: str, content: bytes | None, seconds: float) -> Page:
        headers = {} if content is None else dict(JSON)
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token.decode('ascii')}"
        connector = aiohttp.TCPConnector(ssl=self.tls or True)
        async with aiohttp.ClientSession(connector=connector) as session:
            return await ask(session, self._url_of(path), seconds, body=content, headers=headers)

    def _url_of(self, path: str) -> str:
        return f"{self.url.rstrip('/')}{path}"


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
