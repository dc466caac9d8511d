"""The demo: the whole stack on loopback, real-shaped traffic through it, and what came of it."""

import asyncio
import json
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from weighbridge.errors import RefusedError
from weighbridge.lab.processes import Family
from weighbridge.lab.progress import following
from weighbridge.lab.report import show, summary
from weighbridge.lab.stack import Stack, StackOptions
from weighbridge.lab.traces import TraceRequest, read_rows, requests_of, shipped_trace
from weighbridge.lab.traffic import drive
from weighbridge.process.output import write_json


@dataclass(frozen=True, slots=True)
class Options:
    """What `weighbridge up` was asked for."""

    stack: StackOptions
    requests: int
    trace: Path | None
    exit_when_done: bool
    json_file: Path | None


def sidecar_settings(requests: int) -> dict[str, Any]:
    """The sidecar as it is by default, but that it keeps the decision of every request."""
    return {"decision_log": max(1024, requests)}


async def run(options: Options, console: Console) -> int:
    """Runs the demo; the exit code. RefusedError when a part is missing, taken or dead."""
    stop_on_signals()
    requests = read_requests(options)
    with tempfile.TemporaryDirectory(prefix="weighbridge-up-") as name:
        directory = Path(name)
        async with Family(directory) as family:
            stack = Stack(options.stack, directory, family)
            with steps(console) as step:
                await stack.start(step)
            result = await stack.unless_one_dies(exercise(stack, requests, console))
            report(result, options, console)
            if not options.exit_when_done:
                await stay(stack, console)
    return 0 if result["ok"] == result["requests"] else 1


def stop_on_signals() -> None:
    """Makes Ctrl-C and SIGTERM unwind the task, and so stop what it started."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def read_requests(options: Options) -> list[TraceRequest]:
    """The first requests of the trace."""
    trace = options.trace or shipped_trace()
    requests = list(islice(requests_of(read_rows(trace)), options.requests))
    if len(requests) < options.requests:
        raise RefusedError(f"{trace} holds {len(requests)} requests, not {options.requests}")
    return requests


async def exercise(stack: Stack, requests: list[TraceRequest], console: Console) -> dict[str, Any]:
    """Sends the traffic through Envoy and sums up what came of it."""
    with following(console, len(requests)) as on_done:
        outcomes = await drive(stack.url, stack.model, requests, stack.options.speed, on_done)
    status, decisions = await stack.status(), await stack.decisions()
    return summary(stack.endpoints, outcomes, status["replicas"], decisions)


def report(result: dict[str, Any], options: Options, console: Console) -> None:
    """Shows the run, and writes it where asked."""
    show(result, options.stack.speed, console)
    if options.json_file is not None:
        write_json(result, options.json_file)


async def stay(stack: Stack, console: Console) -> None:
    """Says where to send requests, and waits for Ctrl-C."""
    body = json.dumps({"model": stack.model, "messages": [{"role": "user", "content": "Hello"}]})
    # Unwrapped and plain, so that the command can be copied whole.
    console.print(
        f"\nSend requests to {stack.url}, for example:\n"
        f"  curl -s {stack.url}/v1/chat/completions"
        f" -H 'content-type: application/json' -d '{body}'\n"
        f"The console: {stack.admin_url}/console\n"
        f"All pages of the sidecar: {stack.admin_url}  Envoy's: {stack.envoy_admin_url}\n"
        "Ctrl-C stops everything.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    try:
        await stack.unless_one_dies(asyncio.Event().wait())
    except asyncio.CancelledError:
        console.print("stopping")


class Step:
    """Prints each part when it is ready, and how long it took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._name = ""
        self._start = 0.0

    def __call__(self, name: str) -> None:
        self.finish()
        self._name, self._start = name, time.monotonic()

    def finish(self) -> None:
        """Says that the present part is ready."""
        if self._name:
            took = time.monotonic() - self._start
            self._console.print(f"{self._name} ready in {took:.1f} s", highlight=False)
        self._name = ""


@contextmanager
def steps(console: Console) -> Iterator[Step]:
    """Progress of the start, a line for each part that is ready."""
    step = Step(console)
    yield step
    step.finish()
