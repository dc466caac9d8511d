"""The console in a real browser, over a stack with traffic; and `weighbridge top`."""

import asyncio
import json
import os
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.browser import Browser, browser, find, install
from tests.e2e.harness import Running
from weighbridge.config.listen import Transport
from weighbridge.lab.stack import weighbridge

TAB, ENTER, RIGHT, END = "\ue004", "\ue007", "\ue014", "\ue010"
# Where the docs' pictures go, when they are to be made anew.
PICTURES = os.environ.get("WEIGHBRIDGE_PICTURES")


@pytest.fixture
def transport() -> Transport:
    """One of them: the pages are the same."""
    return "native"


@pytest.fixture
async def window(tmp_path: Path) -> AsyncIterator[Browser]:
    if find() is None:
        await install()
    found = find()
    if found is None:
        missing = "THE CONSOLE IS NOT TESTED: install the packages chromium and chromium-driver"
        warnings.warn(missing, stacklevel=1, category=pytest.PytestWarning)
        pytest.skip(missing)
    async with browser(*found, tmp_path) as started:
        yield started


async def traffic(running: Running, requests: int = 30) -> None:
    for number in range(requests):
        tenant = ["acme", "<b>x</b>"][number % 2]
        headers = {"x-session-id": f"s{number % 7}", "x-tenant-id": tenant}
        reply = await running.post(running.chat("opening " * 200 + str(number)), headers)
        assert reply.status == 200


async def test_everything_is_shown_live(running: Running, window: Browser) -> None:
    await traffic(running)
    await window.open(f"{running.stack.admin_url}/console")
    await window.wait("return document.querySelector('#live').textContent == 'live'")
    await window.wait("return document.querySelectorAll('#decisions tbody tr').length >= 30")
    count = "return document.querySelectorAll('#%s tbody tr').length"
    assert await window.run(count % "replicas") == 6
    assert await window.run(count % "keys") > 0, "the moves that gave each slice its replicas"
    assert await window.run("return document.querySelectorAll('.strip i').length") >= 6
    names = "return [...document.querySelectorAll('#tenants tbody th')].map((th) => th.textContent)"
    assert set(await window.run(names)) >= {"acme", "<b>x</b>"}, "names are text, never markup"
    # A decision that comes later comes by itself.
    before = await window.run("return document.querySelector('#decisions td').textContent")
    await traffic(running, 1)
    await window.wait(
        f"return document.querySelector('#decisions td').textContent != {json.dumps(before)}"
    )
    why = await window.run("return document.querySelector('#decisions td.wide').textContent")
    assert "home" in why
    assert await window.errors() == []
    if PICTURES:
        for scheme in ("light", "dark"):
            await window.prefer(scheme)
            await asyncio.sleep(1.5)
            await window.screenshot(Path(PICTURES) / f"console-{scheme}.png")


async def test_it_is_worked_by_keyboard_and_has_two_schemes(
    running: Running, window: Browser
) -> None:
    await traffic(running)
    await window.open(f"{running.stack.admin_url}/console")
    await window.wait("return document.querySelectorAll('.strip i').length > 1")
    focus = "return document.activeElement.id || document.activeElement.className"
    await window.press(TAB)
    assert await window.run(focus) == "skip"
    seen = []
    for _ in range(16):
        await window.press(TAB)
        seen.append(await window.run(focus))
        if seen[-1] == "strip":
            await window.press(END)
            told = await window.run("return document.querySelector('#slice').textContent")
            assert told.startswith("slice ")
    for reached in ("strip", "pause", "w-model", "w-replicas", "w-rate"):
        assert reached in seen, seen
    unnamed = """return [...document.querySelectorAll('input,select,button,[role],table')].filter(
        (one) => !one.labels?.length && !one.textContent.trim() && !one.ariaLabel
            && !one.getAttribute('aria-labelledby') && one.ariaHidden != 'true'
            && one.id != 'w-state').map((one) => one.outerHTML.slice(0, 80))"""
    assert await window.run(unnamed) == []
    colours = []
    for scheme in ("light", "dark"):
        await window.prefer(scheme)
        colours.append(await window.run("return getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


async def test_what_if_is_answered_by_the_simulator(running: Running, window: Browser) -> None:
    await traffic(running, 40)
    await window.open(f"{running.stack.admin_url}/console")
    await window.wait("return document.querySelector('#w-model').value")
    await window.run("document.querySelector('#w-replicas').focus()")
    await window.press(RIGHT, RIGHT)
    asked = int(await window.run("return document.querySelector('#w-replicas-is').textContent"))
    await window.run("document.querySelector('#whatif button').focus()")
    await window.press(ENTER)
    await window.wait("return document.querySelector('#whatif tbody tr')", 40)
    row = "return [...document.querySelectorAll('#whatif tbody td')].map((td) => td.textContent)"
    cells = await window.run(row)
    assert int(cells[0]) == asked
    assert float(cells[3].replace(",", "")) > 0, "a time to the first token"


async def ask(running: Running, body: str, kind: str = "application/json") -> tuple[int, str]:
    url = f"{running.stack.admin_url}/whatif"
    headers = {"content-type": kind}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers) as answer,
    ):
        return answer.status, (await answer.json())["error"]


async def test_questions_that_cannot_be_answered_say_why(running: Running) -> None:
    model = running.stack.model
    question = {"model": model, "replicas": 4, "rate_factor": 1}
    for body, wrong in (
        ("{", "no JSON"),
        ("[]", "must be a JSON object"),
        (json.dumps(question | {"replicas": 0}), "replicas: must be from 1 to 1,000"),
        (json.dumps(question | {"replicas": True}), "replicas: must be a whole number"),
        (json.dumps(question | {"rate_factor": 1e9}), "rate_factor: must be from"),
        (json.dumps(question | {"model": "other"}), "there is no profile of other"),
        (json.dumps(question), "only 0 of the latest decisions"),
    ):
        status, error = await ask(running, body)
        assert status == 400
        assert wrong in error
    assert (await ask(running, json.dumps(question), "text/plain"))[0] == 415


async def test_top_shows_the_same_in_a_terminal(running: Running) -> None:
    await traffic(running, 5)
    command = weighbridge("top", "--admin", running.stack.admin_url, "--rounds", "2")
    process = await asyncio.create_subprocess_exec(
        *command,
        "--interval",
        "0.2",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"COLUMNS": "160"},
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    text = out.decode()
    for shown in (*running.stack.endpoints, "acme", "5 decided", "home"):
        assert shown in text
