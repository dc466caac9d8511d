"""The console's routes: the page, its events, the slices, and the questions to the simulator."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from aiohttp import web

from weighbridge import whatif
from weighbridge._core import Core, Progress
from weighbridge.console.feed import Feed
from weighbridge.errors import RefusedError

INTERVAL_SECONDS = 1.0
MOST_VIEWERS = 16
# A simulation that takes longer is given up.
ANSWER_SECONDS = 20.0
# The page brings all it needs; nothing it shows can bring more.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Console:
    """The routes, over a core."""

    def __init__(
        self,
        core: Core,
        snapshot: Callable[[], dict[str, Any]],
        profiles: Sequence[Mapping[str, Any]],
    ) -> None:
        self._core = core
        self._snapshot = snapshot
        self._profiles = profiles
        self._viewers = 0
        self._asking = asyncio.Lock()
        self._page = resources.files("weighbridge.console").joinpath("page.html").read_bytes()

    def routes(self) -> list[web.RouteDef]:
        """For the admin server."""
        return [
            web.get("/console", self._console),
            web.get("/console/events", self._events),
            web.get("/slices", self._slices),
            web.post("/whatif", self._whatif),
        ]

    async def _console(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._page, content_type="text/html", charset="utf-8", headers=HEADERS
        )

    async def _slices(self, _: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._core.slices)
        return web.Response(text=text, content_type="application/json")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._viewers >= MOST_VIEWERS:
            return web.json_response({"error": "too many viewers"}, status=503)
        self._viewers += 1
        try:
            response = web.StreamResponse(headers={"cache-control": "no-store"})
            response.content_type = "text/event-stream"
            await response.prepare(request)
            feed = Feed(self._core, self._snapshot)
            while True:
                await response.write(await asyncio.to_thread(feed.next))
                await asyncio.sleep(INTERVAL_SECONDS)
        except ConnectionResetError:
            return response
        finally:
            self._viewers -= 1

    async def _whatif(self, request: web.Request) -> web.Response:
        # A form of another site cannot send this type without asking first.
        if request.content_type != "application/json":
            return web.json_response(
                {"error": "content-type: must be application/json"}, status=415
            )
        if self._asking.locked():
            return web.json_response({"error": "another question is being answered"}, status=429)
        async with self._asking:
            try:
                question = whatif.Question.parse(await request.json())
                found = await self._answer(question)
            except json.JSONDecodeError as error:
                return web.json_response({"error": f"no JSON: {error}"}, status=400)
            except RefusedError as error:
                return web.json_response({"error": str(error)}, status=400)
        return web.json_response(found)

    async def _answer(self, question: whatif.Question) -> dict[str, Any]:
        profile = next((one for one in self._profiles if question.model in one["models"]), None)
        if profile is None:
            raise RefusedError(f"model: there is no profile of {question.model}")
        decisions = json.loads(self._core.decisions(0))
        progress = Progress()
        work = asyncio.create_task(
            asyncio.to_thread(whatif.answer, question, decisions, profile, progress)
        )
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
