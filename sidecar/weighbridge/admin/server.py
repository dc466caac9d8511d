"""The sidecar's own HTTP pages: health, status, decisions and metrics."""

import asyncio
import html
import ipaddress
import logging
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from weighbridge._core import Core
from weighbridge.address import parse_host_port
from weighbridge.admin import explain
from weighbridge.admin.access import Access, guard_content, problem
from weighbridge.admin.console import Console, page
from weighbridge.admin.metrics import Metrics
from weighbridge.admin.port import AdminPort
from weighbridge.errors import ConfigError, RefusedError
from weighbridge.net import outside
from weighbridge.shapes import Status

# Path, whether it is a link, and what is there.
INDEX = (
    ("/console", True, "everything, live in the browser"),
    ("/status", True, "replicas, their load and what they were given"),
    (
        "/decisions",
        True,
        "the first 1,024 kept; ?after=N: above a number, ?latest=N: the last ones",
    ),
    ("/slices", True, "the key space: slices with their replicas, the latest moves"),
    ("/metrics", True, "Prometheus"),
    ("/healthz", True, "200 while the process works, 503 where it has stood still for a minute"),
    ("/readyz", True, "200 while it takes requests, else 503"),
    ("/drain?replica=R", False, "POST: R gets no new session and loses its own at their next turn"),
    ("/undrain?replica=R", False, "POST: takes that back"),
    ("/explain", False, 'POST {"path", "headers", "body"}: what would be decided, and why'),
    ("/whatif", False, 'POST {"model", "replicas", "rate_factor"}: the last minutes, simulated'),
)
INDEX_STYLE = (
    "<style>body{font:14px/1.6 system-ui,sans-serif;margin:2em}td{padding-right:2em}</style>"
)

# A request of a million tokens, as JSON.
EXPLAINED_BYTES = 4 << 20
EXPLAINED_AT_ONCE = 2
MOST_DECISIONS = 1024
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def is_own_fault(record: logging.LogRecord) -> bool:
    """Whether what a page's server logs says anything of the sidecar.

    What is no HTTP is answered; each with its trace, whatever scans the port would fill the disk.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


page_log = logging.getLogger("weighbridge.pages")
page_log.addFilter(is_own_fault)


def is_loopback(peer: str | None) -> bool:
    """Whether a request came from this machine."""
    try:
        return ipaddress.ip_address(peer or "").is_loopback
    except ValueError:
        return False


class AdminServer:
    """Answers from the core's state; only a drain changes it, and only from this machine."""

    def __init__(
        self,
        core: Core,
        is_ready: Callable[[], bool],
        snapshot: Callable[[], Status],
        access: Access | None = None,
        profiles: Sequence[Mapping[str, Any]] = (),
        *,
        notes: Callable[[], Sequence[str]] = tuple,
        is_alive: Callable[[], bool] = lambda: True,
    ) -> None:
        """`notes` are lines that /readyz adds: what is not as it should be.

        All that it is given is called from the thread that the pages are on, and others.
        """
        self._core = core
        self._access = access or Access()
        self._is_ready, self._is_alive = is_ready, is_alive
        self._notes = notes
        self._snapshot = snapshot
        self._metrics = Metrics(snapshot)
        self._console = Console(core, snapshot, profiles)
        self._index_page = index()
        self._explaining = 0
        self._runners: list[web.AppRunner] = []
        # That of the pages is the first.
        self._ports: list[AdminPort] = []

    def application(self) -> web.Application:
        """The pages, for the server and for tests."""
        routes = [
            web.get("/", self._index),
            web.get("/status", self._status),
            web.get("/decisions", self._decisions),
            web.post("/drain", self._drain),
            web.post("/undrain", self._undrain),
            web.post("/explain", self._explain),
            *self._console.routes(),
        ]
        return application(self._access, [*routes, *self._open_routes()])

    def open_application(self) -> web.Application:
        """The pages that need no token where `metrics.address` is."""
        return application(Access(hosts=self._access.hosts), self._open_routes())

    def _open_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._metrics_page),
        ]

    async def start(self, address: str, metrics_address: str | None = None) -> Self:
        """Listens. RefusedError when an address is taken."""
        tls = self._access.tls
        try:
            await self._listen(self.application(), "admin.address", address, tls)
            if metrics_address is not None:
                await self._listen(self.open_application(), "metrics.address", metrics_address)
        except RefusedError:
            await self.stop()
            raise
        return self

    async def _listen(
        self, pages: web.Application, key: str, address: str, tls: ssl.SSLContext | None = None
    ) -> None:
        # What a client compressed is not expanded here: no page asks for that.
        runner = web.AppRunner(
            pages, logger=page_log, access_log=None, shutdown_timeout=1, auto_decompress=False
        )
        self._runners.append(runner)
        await runner.setup()
        # An AppRunner's server is there once it is set up.
        port = AdminPort(cast("web.Server", runner.server))
        self._ports.append(port)
        try:
            await port.listen(parse_host_port(address), tls)
        except OSError as error:
            raise RefusedError(f"{key}: cannot listen on {address}: {error}") from None

    async def show_certificates(self) -> None:
        """Shows what `access` holds by now to connections from now on."""
        if self._ports:
            await self._ports[0].show(self._access.tls)

    async def stop(self) -> None:
        """Stops listening."""
        while self._ports:
            self._ports.pop().close()
        while self._runners:
            await self._runners.pop().cleanup()

    async def _index(self, _: web.Request) -> web.Response:
        return page(self._index_page)

    async def _healthz(self, _: web.Request) -> web.Response:
        is_alive = self._is_alive()
        text = "ok" if is_alive else "the control plane stands still"
        return web.Response(text=f"{text}\n", status=200 if is_alive else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        is_ready = self._is_ready()
        lines = ["ready" if is_ready else "not ready", *self._notes()]
        return web.Response(
            text="".join(f"{line}\n" for line in lines), status=200 if is_ready else 503
        )

    async def _status(self, _: web.Request) -> web.Response:
        return outside.json_answer(await asyncio.to_thread(self._snapshot))

    async def _decisions(self, request: web.Request) -> web.Response:
        try:
            after = whole_number(request, "after")
            latest = whole_number(request, "latest")
        except RefusedError as error:
            return problem(400, str(error))
        if latest is None:
            text = await asyncio.to_thread(self._core.decisions, after or 0, MOST_DECISIONS)
        else:
            most = min(latest, MOST_DECISIONS)
            text = await asyncio.to_thread(self._core.latest_decisions, most)
        return web.Response(text=text, content_type="application/json")

    async def _drain(self, request: web.Request) -> web.Response:
        return await self._set_drained(request, True)

    async def _undrain(self, request: web.Request) -> web.Response:
        return await self._set_drained(request, False)

    async def _set_drained(self, request: web.Request, on: bool) -> web.Response:
        # The pages may be open to others, who may look and not touch.
        if not is_loopback(request.remote):
            return problem(403, "only from this machine")
        endpoint = request.query.get("replica")
        if not endpoint:
            return problem(400, "replica: which one? ip:port")
        try:
            outside.require_text(endpoint, "replica")
        except RefusedError as error:
            return problem(400, str(error))
        if not self._core.drain(endpoint, on):
            return problem(404, f"replica: there is no '{endpoint}'")
        replicas = (await asyncio.to_thread(self._snapshot))["replicas"]
        found = next((one for one in replicas if one["endpoint"] == endpoint), None)
        if found is None:
            return problem(404, f"replica: there is no '{endpoint}' any more")
        answer = {key: found[key] for key in ("endpoint", "state", "requests")}
        return outside.json_answer(answer)

    async def _explain(self, request: web.Request) -> web.Response:
        if self._explaining >= EXPLAINED_AT_ONCE:
            return problem(429, f"{EXPLAINED_AT_ONCE} requests are being explained: ask again")
        self._explaining += 1
        try:
            content = await outside.body(request, EXPLAINED_BYTES)
            explanation = await asyncio.to_thread(self._explanation, content)
        except ConfigError as error:
            return problem(400, str(error))
        except explain.RefusedByCoreError as error:
            return outside.json_answer(error.refusal, status=422)
        finally:
            self._explaining -= 1
        return outside.json_answer(explanation)

    def _explanation(self, content: bytes) -> dict[str, Any]:
        return explain.ask(self._core, explain.parse(content))

    async def _metrics_page(self, request: web.Request) -> web.Response:
        headers = {"content-type": METRICS_TYPE, "vary": "accept-encoding"}
        is_packed = takes_gzip(request.headers.get("accept-encoding", ""))
        if is_packed:
            headers["content-encoding"] = "gzip"
        # With a thousand replicas it takes a while, in which other pages are to answer.
        work = self._metrics.packed if is_packed else self._metrics.text
        return web.Response(body=await asyncio.to_thread(work), headers=headers)


def application(access: Access, routes: Sequence[web.RouteDef]) -> web.Application:
    """Pages behind one door."""
    made = web.Application(middlewares=[access.middleware()])
    made.on_response_prepare.append(guard_content)
    made.add_routes(routes)
    return made


def takes_gzip(accepted: str) -> bool:
    """Whether an `accept-encoding` takes gzip."""
    for one in accepted.lower().split(","):
        coding, _, quality = one.partition(";")
        if coding.strip() in {"gzip", "*"}:
            return not re.fullmatch(r"q=0(\.0*)?", quality.strip())
    return False


def whole_number(request: web.Request, key: str) -> int | None:
    """A number of the query, if it is there. RefusedError for what is none."""
    text = request.query.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise RefusedError(f"{key}: must be a number")
    return int(text)


def index() -> bytes:
    """The page of links."""
    rows = []
    for path, is_link, what in INDEX:
        shown = html.escape(path)
        name = f'<a href="{shown}">{shown}</a>' if is_link else shown
        rows.append(f"<tr><td>{name}</td><td>{html.escape(what)}</td></tr>")
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Weighbridge</title>'
        f"{INDEX_STYLE}</head>\n<body><h1>Weighbridge</h1>\n<table>\n"
    )
    return (text + "\n".join(rows) + "\n</table></body></html>\n").encode()
