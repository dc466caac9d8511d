"""Child processes: nothing is left behind, however the parent ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from weighbridge.lab.processes import Child, Family

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# Starts a process of its own, says its number, ignores SIGTERM.
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen(['sleep', '600'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)",
]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def test_leaving_a_family_stops_all_of_it(tmp_path: Path) -> None:
    async with Family(tmp_path) as family:
        children = [await family.start(f"c{n}", SLEEP) for n in range(3)]
        assert all(is_alive(child.pid) for child in children)
    assert not any(is_alive(child.pid) for child in children)


async def test_what_ignores_sigterm_is_killed_with_what_it_started(tmp_path: Path) -> None:
    async with Family(tmp_path, grace_seconds=0.2) as family:
        child = await family.start("stubborn", STUBBORN)
        await until(child.last_words)
        grandchild = int(child.last_words())
        assert is_alive(grandchild)
    await until(lambda: not is_alive(child.pid) and not is_alive(grandchild))


async def test_a_death_is_reported_with_the_last_words(tmp_path: Path) -> None:
    async with Family(tmp_path) as family:
        await family.start("sleeper", SLEEP)
        dying = [sys.executable, "-c", "import sys; print('first'); sys.exit('port 1 is taken')"]
        await family.start("dying", dying)
        dead = await family.first_death()
        assert str(dead.obituary()) == "dying exited (1): port 1 is taken"


async def test_one_that_is_started_again_is_no_death(tmp_path: Path) -> None:
    async with Family(tmp_path) as family:
        first = await family.start("sleeper", SLEEP)
        await first.stop(1)
        second = await family.start("sleeper", SLEEP)
        assert family.running("sleeper") is second
        death = asyncio.create_task(family.first_death())
        await asyncio.sleep(0.05)
        assert not death.done()
        second.signal(signal.SIGKILL)
        assert await death is second


async def test_a_killed_child_names_its_signal(tmp_path: Path) -> None:
    async with Family(tmp_path) as family:
        child = await family.start("sleeper", SLEEP)
        child.signal(signal.SIGKILL)
        assert await family.first_death() is child
        assert str(child.obituary()) == "sleeper was killed by signal 9"


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(600)"]
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from weighbridge.lab.processes import Child\n"
        "async def main():\n"
        f"    child = await Child.start('c', {command!r}, Path({str(log)!r}))\n"
        "    print(child.pid, flush=True)\n"
        "    await child.wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        # Past the tether's own look at its parent: now only the kernel can end it.
        while log.read_text() != "runs\n":
            time.sleep(0.01)
        assert is_alive(child)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    while is_alive(child):  # the suite's time limit ends this
        time.sleep(0.01)


async def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    child = await Child.start("sleeper", SLEEP, tmp_path / "log")
    await child.stop(1)
    await child.stop(1)
    child.signal(signal.SIGTERM)
    assert child.returncode is not None


@pytest.mark.parametrize("command", [["/no/such/command"]])
async def test_a_command_that_is_missing_is_a_death(tmp_path: Path, command: list[str]) -> None:
    async with Family(tmp_path) as family:
        await family.start("missing", command)
        dead = await family.first_death()
        assert "No such file" in str(dead.obituary())
