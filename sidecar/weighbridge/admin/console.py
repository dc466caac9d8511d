"""The console's routes: the page, its events, the slices, and the questions to the simulator."""

import asyncio
import base64
import hashlib
import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from aiohttp import web

from weighbridge._core import Core, Progress
from weighbridge.admin import whatif
from weighbridge.admin.access import problem
from weighbridge.admin.feed import Feed
from weighbridge.errors import RefusedError
from weighbridge.net import outside
from weighbridge.shapes import Status

INTERVAL_SECONDS = 1.0
MOST_VIEWERS = 16
# A simulation that takes longer is given up.
ANSWER_SECONDS = 20.0
# A viewer that takes nothing for so long is let go.
WRITE_SECONDS = 5.0
# Of what a viewer has not taken, the system keeps no more than this.
SEND_BUFFER_BYTES = 64 << 10
QUESTION_BYTES = 512 << 10
# Script and style as they stand between their tags.
INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


@cache
def policy(content: bytes) -> str:
    """The content security policy under which a page runs its own script and nothing else."""
    sources: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in INLINE.findall(content):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        sources[kind.decode()].append(f"'sha256-{digest}'")
    allowed = {kind: " ".join(found) or "'none'" for kind, found in sources.items()}
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def page(content: bytes) -> web.Response:
    """An HTML page under its policy."""
    headers = {"content-security-policy": policy(content), "referrer-policy": "no-referrer"}
    return web.Response(body=content, content_type="text/html", charset="utf-8", headers=headers)


class Console:
    """The routes, over a core."""

    def __init__(
        self,
        core: Core,
        snapshot: Callable[[], Status],
        profiles: Sequence[Mapping[str, Any]],
    ) -> None:
        self._core = core
        self._snapshot = snapshot
        self._profiles = profiles
        # Connections that watch, the oldest first.
        self._viewers: dict[asyncio.Transport, None] = {}
        self._asking = asyncio.Lock()
        self._page = resources.files("weighbridge.admin").joinpath("console.html").read_bytes()

    def routes(self) -> list[web.RouteDef]:
        """For the admin server."""
        return [
            web.get("/console", self._console),
            web.get("/console/events", self._events),
            web.get("/slices", self._slices),
            web.post("/whatif", self._whatif),
        ]

    async def _console(self, _: web.Request) -> web.Response:
        return page(self._page)

    async def _slices(self, _: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._core.slices)
        return web.Response(text=text, content_type="application/json")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise web.HTTPServiceUnavailable
        # Somebody looks at the newest viewer; the oldest may have been left long ago. A page that
        # loses its place while somebody looks connects again by itself.
        while len(self._viewers) >= MOST_VIEWERS:
            first = next(iter(self._viewers))
            del self._viewers[first]
            first.abort()
        self._viewers[transport] = None
        bound_buffer(transport)
        response = web.StreamResponse()
        response.content_type = "text/event-stream"
        try:
            await response.prepare(request)
            feed = Feed(self._core, self._snapshot)
            while not transport.is_closing():
                events = await asyncio.to_thread(feed.next)
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(events)
                await asyncio.sleep(INTERVAL_SECONDS)
        except (ConnectionResetError, TimeoutError):
            pass
        finally:
            self._viewers.pop(transport, None)
            # What was not taken is dropped with the connection.
            transport.abort()
        return response

    async def _whatif(self, request: web.Request) -> web.Response:
        if self._asking.locked():
            return problem(429, "another question is being answered")
        async with self._asking:
            try:
                content = await outside.body(request, QUESTION_BYTES)
                asked = await asyncio.to_thread(outside.read_json, content)
                found = await self._answer(whatif.Question.parse(asked))
            except RefusedError as error:
                return problem(400, str(error))
        return outside.json_answer(found)

    async def _answer(self, question: whatif.Question) -> dict[str, Any]:
        profile = next((one for one in self._profiles if question.model in one["models"]), None)
        if profile is None:
            raise RefusedError(f"model: there is no profile of {question.model}")
        progress = Progress()
        work = asyncio.create_task(asyncio.to_thread(self._simulate, question, profile, progress))
        try:
            return await asyncio.wait_for(asyncio.shield(work), ANSWER_SECONDS)
        except TimeoutError:
            raise RefusedError(
                f"the simulation takes longer than {ANSWER_SECONDS:g} s: ask for fewer replicas"
            ) from None
        finally:
            # Also when the viewer has gone: the thread ends before another question is let in.
            progress.stop()
            await asyncio.gather(work, return_exceptions=True)

    def _simulate(
        self, question: whatif.Question, profile: Mapping[str, Any], progress: Progress
    ) -> dict[str, Any]:
        decisions = json.loads(self._core.latest_decisions(whatif.MOST_REQUESTS))
        return whatif.answer(question, decisions, profile, progress)


def bound_buffer(transport: asyncio.BaseTransport) -> None:
    """Has the system keep little of what a connection's other end does not take."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
