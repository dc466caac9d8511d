"""The sidecar's own HTTP pages: health, status, decisions and metrics."""

import asyncio
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

from aiohttp import web

from weighbridge import explain
from weighbridge._core import Core
from weighbridge.access import Access
from weighbridge.address import parse_host_port
from weighbridge.admin_port import AdminPort
from weighbridge.console.pages import Console
from weighbridge.errors import ConfigError, RefusedError
from weighbridge.metrics import Metrics

INDEX = """weighbridge
/healthz             200 while the process answers
/readyz              200 while it takes requests, else 503
/status              replicas, what they carry and were given
/decisions?after=N   the latest decisions with a number above N
/drain?replica=R     POST: R gets no new session and loses its own at their next turn
/undrain?replica=R   POST: takes that back
/explain             POST {"path", "headers", "body"}: what would be decided, and why
/metrics             Prometheus
/console             all of it to look at, live
/slices              the key space: slices with their replicas, the latest moves
/whatif              POST {"model", "replicas", "rate_factor"}: the last minutes simulated
"""


# Of a POST to /explain: as much as a whole ext_proc message may hold.
EXPLAINED_BYTES = 16 << 20


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
        snapshot: Callable[[], dict[str, Any]],
        access: Access | None = None,
        profiles: Sequence[Mapping[str, Any]] = (),
        *,
        notes: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`notes` are lines that /readyz adds: what is not as it should be."""
        self._core = core
        self._access = access or Access()
        self._is_ready = is_ready
        self._notes = notes
        self._snapshot = snapshot
        self._metrics = Metrics(snapshot)
        self._console = Console(core, snapshot, profiles)
        self._runner: web.AppRunner | None = None
        self._port: AdminPort | None = None

    def application(self) -> web.Application:
        """The pages, for the server and for tests."""
        application = web.Application(
            client_max_size=EXPLAINED_BYTES, middlewares=[self._access.middleware()]
        )
        application.add_routes(
            [
                web.get("/", self._index),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/status", self._status),
                web.get("/decisions", self._decisions),
                web.post("/drain", self._drain),
                web.post("/undrain", self._undrain),
                web.post("/explain", self._explain),
                web.get("/metrics", self._metrics_page),
                *self._console.routes(),
            ]
        )
        return application

    async def start(self, address: str) -> Self:
        """Listens. RefusedError when the address is taken."""
        where = parse_host_port(address)
        self._runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        try:
            # An AppRunner's server is there once it is set up.
            self._port = AdminPort(cast("web.Server", self._runner.server))
            await self._port.listen(where, self._access.tls)
        except OSError as error:
            await self.stop()
            raise RefusedError(f"admin.address: cannot listen on {address}: {error}") from None
        return self

    async def show_certificates(self) -> None:
        """Shows what `access` holds by now to connections from now on."""
        if self._port is not None:
            await self._port.show(self._access.tls)

    async def stop(self) -> None:
        """Stops listening."""
        if self._port is not None:
            self._port.close()
            self._port = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _index(self, _: web.Request) -> web.Response:
        return web.Response(text=INDEX)

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        is_ready = self._is_ready()
        lines = ["ready" if is_ready else "not ready", *self._notes()]
        return web.Response(
            text="".join(f"{line}\n" for line in lines), status=200 if is_ready else 503
        )

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(self._snapshot))

    async def _decisions(self, request: web.Request) -> web.Response:
        text = request.query.get("after", "0")
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            return web.json_response({"error": "after: must be a number"}, status=400)
        decisions = self._core.decisions(int(text))
        return web.Response(text=decisions, content_type="application/json")

    async def _drain(self, request: web.Request) -> web.Response:
        return self._set_drained(request, True)

    async def _undrain(self, request: web.Request) -> web.Response:
        return self._set_drained(request, False)

    def _set_drained(self, request: web.Request, on: bool) -> web.Response:
        # The pages may be open to others, who may look and not touch.
        if not is_loopback(request.remote):
            return web.json_response({"error": "only from this machine"}, status=403)
        endpoint = request.query.get("replica")
        if not endpoint:
            return web.json_response({"error": "replica: which one? ip:port"}, status=400)
        if not self._core.drain(endpoint, on):
            error = f"replica: there is no '{endpoint}'"
            return web.json_response({"error": error}, status=404)
        replicas = self._snapshot()["replicas"]
        found = next(one for one in replicas if one["endpoint"] == endpoint)
        answer = {key: found[key] for key in ("endpoint", "state", "requests")}
        return web.json_response(answer)

    async def _explain(self, request: web.Request) -> web.Response:
        try:
            asked = explain.parse(await request.read())
        except ConfigError as error:
            return web.json_response({"error": str(error)}, status=400)
        try:
            explanation = await asyncio.to_thread(explain.ask, self._core, asked)
        except explain.RefusedByCoreError as error:
            return web.json_response(error.refusal, status=422)
        return web.json_response(explanation)

    async def _metrics_page(self, _: web.Request) -> web.Response:
        # With a thousand replicas it takes a while, in which other pages are to answer.
        text = await asyncio.to_thread(self._metrics.text)
        return web.Response(
            body=text,
            headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
        )
