"""What the admin pages ask of a request: the host it names, its origin, and the token."""

import hashlib
import hmac
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from weighbridge.address import parse_host_port
from weighbridge.config.admin import Admin, AdminTls
from weighbridge.errors import ConfigError
from weighbridge.net import outside
from weighbridge.net.tls import require_valid

# For whoever keeps the process alive: they tell nothing else.
OPEN_PAGES = frozenset({"/healthz", "/readyz"})
# Methods that change nothing.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LEAST_TOKEN_BYTES = 16
JSON = "application/json"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Access:
    """What the pages ask of a request. Token and certificates may change."""

    token: bytes | None = None
    tls: ssl.SSLContext | None = None
    # Names and addresses by which the pages may be asked for, beside loopback and their own.
    hosts: frozenset[str] = frozenset()

    def admits(self, path: str, authorization: str | None) -> bool:
        """Whether a request with this `authorization` may see a page."""
        if self.token is None or path in OPEN_PAGES:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        # Digests are equally long: how long the comparison takes tells nothing of the token.
        same = hmac.compare_digest(
            hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest(),
            hashlib.sha256(self.token).digest(),
        )
        return same and scheme.lower() == "bearer"

    def is_named(self, host: str, reached: str | None) -> bool:
        """Whether a Host header names these pages; `reached` is the address that was connected to.

        A foreign name that resolves to this address would make a foreign page the same origin.
        """
        name = hostname(host)
        if name in self.hosts or name == "localhost":
            return True
        address = as_ip(name)
        return address is not None and (address.is_loopback or address == as_ip(reached or ""))

    def refusal(self, request: web.Request) -> web.Response | None:
        """The answer to a request that may not see its page."""
        host = request.headers.getall("host", [])
        sockname = request.get_extra_info("sockname")
        reached = sockname[0] if isinstance(sockname, tuple) else None
        if len(host) != 1 or not self.is_named(host[0], reached):
            return problem(403, "host: not a name of this sidecar; admin.hosts lists more")
        if is_foreign(request, host[0]):
            return problem(403, "origin: pages of other sites may not ask")
        if not self.admits(request.path, request.headers.get("authorization")):
            answer = problem(401, "this page needs the admin token: authorization: Bearer TOKEN")
            answer.headers["www-authenticate"] = "Bearer"
            return answer
        # A form of another site cannot send this type without asking first.
        if request.method not in SAFE_METHODS and request.content_type != JSON:
            return problem(415, f"content-type: must be {JSON}")
        return None

    def middleware(self) -> Middleware:
        """Refuses requests that may not see their page, and makes JSON of what goes wrong."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            refused = self.refusal(request)
            if refused is not None:
                return refused
            try:
                return await handler(request)
            except web.HTTPException as error:
                if error.status < 400:
                    raise
                answer = problem(error.status, error.text or error.reason)
                if "allow" in error.headers:
                    answer.headers["allow"] = error.headers["allow"]
                return answer

        return check


async def guard_content(_: web.Request, response: web.StreamResponse) -> None:
    """Keeps browsers from guessing an answer's type, and other sites from embedding it."""
    response.headers["x-content-type-options"] = "nosniff"
    response.headers["cross-origin-resource-policy"] = "same-origin"
    response.headers["cache-control"] = "no-store"


def problem(status: int, error: str) -> web.Response:
    """What is wrong with a request, as every page says it."""
    return outside.json_answer({"error": error}, status=status)


def is_foreign(request: web.Request, host: str) -> bool:
    """Whether a page of another origin sent the request, other than by a link that was followed."""
    origins = [origin.lower() for origin in request.headers.getall("origin", [])]
    own = {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}
    if any(origin not in own for origin in origins):
        return True
    is_link = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
    site = request.headers.get("sec-fetch-site", "none")
    return site not in ("none", "same-origin") and not is_link


def hostname(host: str) -> str:
    """The host of a Host header: without port, brackets and final dot, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def as_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address in any spelling; None for a name."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def load(admin: Admin, source: Path) -> Access:
    """Reads the token and certificates. ConfigError names file and key; never a secret."""
    token = None
    if admin.token_file is not None:
        where = f"{source}: admin.token_file"
        token = read_token(source.parent / admin.token_file, where)
    tls = None if admin.tls is None else server_tls(admin.tls, source)
    own = hostname(parse_host_port(admin.address).host)
    return Access(token, tls, frozenset({own, *admin.hosts}))


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
