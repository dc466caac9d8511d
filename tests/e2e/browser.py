"""A real headless Chromium, driven over the WebDriver protocol that chromedriver speaks."""

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.harness import until
from weighbridge.lab.ports import LOOPBACK, find_free_run

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
WINDOW = "--window-size=1280,1500"


def find() -> tuple[str, str] | None:
    """The browser and its driver; None where there is none."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


async def install() -> None:
    """Debian's browser, where that may be installed: in an image that tests are run in, as root."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    command = "apt-get update -q && apt-get install -qy --no-install-recommends chromium{,-driver}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, stdout=asyncio.subprocess.DEVNULL
    )
    await process.wait()


class Browser:
    """One window."""

    def __init__(self, client: aiohttp.ClientSession, session: str) -> None:
        self._client = client
        self._session = session

    async def _call(self, path: str, **body: Any) -> Any:
        url = f"/session/{self._session}{path}"
        async with self._client.post(url, json=body) as answer:
            content = await answer.json()
            assert answer.status == 200, content
            return content["value"]

    async def open(self, url: str) -> None:
        """Loads a page."""
        await self._call("/url", url=url)

    async def run(self, script: str) -> Any:
        """What a script returns."""
        return await self._call("/execute/sync", script=script, args=[])

    async def wait(self, script: str, seconds: float = 20) -> None:
        """Waits until a script returns what counts as true."""

        async def is_true() -> bool:
            return bool(await self.run(script))

        await until(is_true, seconds)

    async def press(self, *keys: str) -> None:
        """Presses keys, one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        await self._call("/actions", actions=[{"type": "key", "id": "keys", "actions": strokes}])

    async def prefer(self, scheme: str) -> None:
        """Makes the page see a preference for `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        command = "Emulation.setEmulatedMedia"
        await self._call("/goog/cdp/execute", cmd=command, params={"features": [feature]})

    async def errors(self) -> list[str]:
        """What the page complained of in its console."""
        entries = await self._call("/se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    async def screenshot(self, file: Path) -> None:
        """The window as a PNG."""
        url = f"/session/{self._session}/screenshot"
        async with self._client.get(url) as answer:
            png = base64.b64decode((await answer.json())["value"])
        await asyncio.to_thread(file.write_bytes, png)


@asynccontextmanager
async def browser(binary: str, driver: str, directory: Path) -> AsyncIterator[Browser]:
    """Starts a browser; it is gone at the end."""
    port = find_free_run(1)
    arguments = [*OPTIONS, WINDOW, f"--user-data-dir={directory / 'chromium'}"]
    process = await asyncio.create_subprocess_exec(
        driver, f"--port={port}", stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with aiohttp.ClientSession(f"http://{LOOPBACK}:{port}") as client:

            async def is_ready() -> bool:
                try:
                    async with client.get("/status") as answer:
                        return bool((await answer.json())["value"]["ready"])
                except aiohttp.ClientError:
                    return False

            await until(is_ready)
            wanted = {"goog:chromeOptions": {"binary": binary, "args": arguments}}
            body = {"capabilities": {"alwaysMatch": wanted}}
            async with client.post("/session", json=body) as answer:
                content = await answer.json()
                assert answer.status == 200, content
            session = content["value"]["sessionId"]
            try:
                yield Browser(client, session)
            finally:
                async with client.delete(f"/session/{session}"):
                    pass
    finally:
        process.terminate()
        await process.wait()
