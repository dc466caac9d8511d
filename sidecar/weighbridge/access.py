"""Who may see the admin pages: those with the token, over TLS where that is configured."""

import hashlib
import hmac
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from weighbridge.address import parse_host_port
from weighbridge.config import Admin, AdminTls
from weighbridge.errors import ConfigError
from weighbridge.tls import require_valid

# For whoever keeps the process alive: they tell nothing else.
OPEN_PAGES = frozenset({"/healthz", "/readyz"})
# What answers beyond loopback where nobody was given a token.
OPENED_PAGES = OPEN_PAGES | {"/metrics"}
LEAST_TOKEN_BYTES = 16


@dataclass(slots=True)
class Access:
    """What the admin pages ask of those who come. Token and certificates may change."""

    token: bytes | None = None
    tls: ssl.SSLContext | None = None
    # Other machines may come, without a token.
    is_opened: bool = False

    def admits(self, path: str, authorization: str | None) -> bool:
        """Whether a request with this `authorization` may see a page."""
        if self.token is None:
            return not self.is_opened or path in OPENED_PAGES
        if path in OPEN_PAGES:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        # Digests are equally long: how long the comparison takes tells nothing of the token.
        same = hmac.compare_digest(
            hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest(),
            hashlib.sha256(self.token).digest(),
        )
        return same and scheme.lower() == "bearer"

    def middleware(self) -> Middleware:
        """Turns away those who may not see a page."""

        @web.middleware
        async def check(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if self.admits(request.path, request.headers.get("authorization")):
                return await handler(request)
            return web.json_response(
                {"error": "this page needs the admin token: authorization: Bearer TOKEN"},
                status=401,
                headers={"www-authenticate": "Bearer"},
            )

        return check


def load(admin: Admin, source: Path) -> Access:
    """Reads the token and certificates. ConfigError names file and key; never a secret."""
    token = None
    if admin.token_file is not None:
        where = f"{source}: admin.token_file"
        token = read_token(source.parent / admin.token_file, where)
    tls = None if admin.tls is None else server_tls(admin.tls, source)
    return Access(token, tls, not parse_host_port(admin.address).is_loopback)


def files(admin: Admin, source: Path) -> list[Path]:
    """The files that the token and the certificates are read from."""
    names = [admin.token_file]
    if admin.tls is not None:
        names += [admin.tls.certificate, admin.tls.key, admin.tls.client_ca]
    return [source.parent / name for name in names if name is not None]


def read_token(path: Path, where: str) -> bytes:
    """The token in a file, without the spaces and line breaks around it; `where` it is named."""
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{where}: {path}: {error.strerror or error}") from None
    if len(token) < LEAST_TOKEN_BYTES or any(byte <= 32 or byte > 126 for byte in token):
        raise ConfigError(
            f"{where}: {path}: must hold {LEAST_TOKEN_BYTES} or more printable characters"
        )
    return token


def server_tls(tls: AdminTls, source: Path) -> ssl.SSLContext:
    """TLS 1.2 or later; clients' certificates are asked for where their authorities are given."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    where = f"{source}: admin.tls"
    try:
        certificate, key = source.parent / tls.certificate, source.parent / tls.key
        context.load_cert_chain(certificate, key, password="")
        require_valid(certificate, key, where)
        if tls.client_ca is not None:
            context.load_verify_locations(source.parent / tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{where}: {error.strerror or error}") from None
    return context
