"""The demo as a user runs it: its result, its refusals, and that it leaves nothing behind."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import processes, session_of
from tests.e2e.harness import until
from weighbridge.config.file import Config
from weighbridge.config.reading import load
from weighbridge.lab.ports import find_free_run
from weighbridge.lab.traces import shipped_trace

TRACE = ("--trace", str(shipped_trace()))
STAYING = ("--requests", "5", "--replicas", "2", "--speed", "100", *TRACE)
REPLICA_KEYS = {"endpoint", "requests", "mu", "cached_tokens", "ttft_p50_ms", "ttft_p95_ms"}


@asynccontextmanager
async def up(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs `weighbridge up`; at the end none of the processes that carry its mark may live."""
    mark = f"mark-{os.getpid()}-{id(arguments)}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "weighbridge", "up", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"WEIGHBRIDGE_TEST_MARK": mark, "COLUMNS": "160"},
        start_new_session=True,
    )
    try:
        yield process
        await until(lambda: not marked(mark))
    finally:
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()


def marked(mark: str) -> list[int]:
    """All processes with this mark in their environment."""
    found = []
    for pid in processes():
        with contextlib.suppress(OSError):
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes() and session_of(pid):
                found.append(pid)
    return found


async def finish(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def line_with(stream: asyncio.StreamReader | None, text: str) -> str:
    assert stream is not None
    async for line in stream:
        if text in line.decode():
            return line.decode()
    raise AssertionError(f"it ended without a word of {text!r}")


async def test_it_answers_all_and_writes_what_it_promises(transport: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ("--exit", "--transport", transport, "--json", str(file), "--speed", "20")
    async with up(*arguments, *TRACE) as process:
        code, out, err = await finish(process)
    assert code == 0, err
    result: dict[str, Any] = json.loads(file.read_text())
    assert result["requests"] == result["ok"] == 300
    assert result["errors"] == []
    assert len(result["replicas"]) == 6
    for replica in result["replicas"]:
        assert replica.keys() >= REPLICA_KEYS
    assert sum(replica["requests"] > 0 for replica in result["replicas"]) >= 4
    assert sum(replica["requests"] for replica in result["replicas"]) == 300
    assert result["session_stickiness"] >= 0.95
    assert result["sessions"] > 50
    assert len(result["decisions"]) == 5
    for decision in result["decisions"]:
        assert decision["replica"] == decision["served_by"]
        assert decision["mu"] > 0
        assert decision["why"]
    assert "300 of 300 answered" in out


async def test_the_sidecar_of_the_demo_is_as_it_ships(tmp_path: Path) -> None:
    async with up(*STAYING, "--admin-port", str(find_free_run(40) + 39)) as process:
        console = (await line_with(process.stdout, "The console:")).split()[-1]
        address = console.removeprefix("http://").removesuffix("/console")
        (serving,) = [pid for pid in children_of(process.pid) if "serve" in command_of(pid)]
        arguments = arguments_of(serving)
        config = load(Path(arguments[arguments.index("--config") + 1]))
        assert config.admin.address == address
        default = Config()
        for section in ("placing", "admission", "health", "telemetry"):
            assert getattr(config, section) == getattr(default, section), section
        async with aiohttp.ClientSession() as session, session.get(console) as page:
            assert "<title>Weighbridge</title>" in await page.text()
        process.send_signal(signal.SIGINT)
        await finish(process)


async def test_json_on_standard_output_is_nothing_but_json() -> None:
    arguments = ("--exit", "--json", "-", "--requests", "20", "--replicas", "2", "--speed", "100")
    async with up(*arguments, *TRACE) as process:
        code, out, err = await finish(process)
    assert code == 0, err
    assert json.loads(out)["ok"] == 20
    assert "20 of 20 answered" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_stays_up_with_a_command_that_works_until_it_is_stopped(
    number: signal.Signals,
) -> None:
    async with up(*STAYING) as process:
        curl = await line_with(process.stdout, "curl -s")
        shell = await asyncio.create_subprocess_shell(curl, stdout=asyncio.subprocess.PIPE)
        answer = json.loads((await shell.communicate())[0])
        assert answer["choices"][0]["message"]["content"]
        process.send_signal(number)
        code, _, err = await finish(process)
    assert (code, err) == (0, "")


async def test_it_can_be_stopped_in_the_midst_of_its_traffic() -> None:
    async with up("--speed", "1", *TRACE) as process:
        await line_with(process.stdout, "Envoy ready")
        process.send_signal(signal.SIGINT)
        code, _, err = await finish(process)
    assert (code, err) == (130, "")


async def test_nothing_is_left_when_it_is_killed() -> None:
    async with up(*STAYING) as process:
        await line_with(process.stdout, "Ctrl-C")
        process.kill()
        await process.wait()


@pytest.mark.parametrize("part", ["emulate", "serve", "envoy"])
async def test_a_part_that_dies_ends_it_with_one_line(part: str) -> None:
    async with up(*STAYING) as process:
        await line_with(process.stdout, "Ctrl-C")
        (child,) = [pid for pid in children_of(process.pid) if part in command_of(pid)]
        os.kill(child, signal.SIGKILL)
        code, _, err = await finish(process)
    assert code == 1
    assert err.startswith(f"weighbridge: {part} was killed by signal 9")
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["--port", "--base-port"])
async def test_a_taken_port_is_said_before_anything_starts(option: str) -> None:
    # Its neighbours, which replicas take as well, are free and outside the range of clients' ports.
    port = find_free_run(16)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        async with up(option, str(port), *STAYING) as process:
            code, out, err = await finish(process)
    assert code == 1
    assert out == ""
    assert err == f"weighbridge: cannot start: 127.0.0.1:{port} already in use\n"


def children_of(parent: int) -> list[int]:
    """The processes that one started."""
    found = []
    for pid in processes():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == parent:
                found.append(pid)
    return found


def command_of(pid: int) -> str:
    """What a process runs: the program's name, or the part that Python runs."""
    arguments = arguments_of(pid)
    return arguments[3] if "weighbridge" in arguments else arguments[0]


def arguments_of(pid: int) -> list[str]:
    """A process's command line."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
