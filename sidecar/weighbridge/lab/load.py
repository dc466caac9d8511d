"""`weighbridge load`: the traffic of a trace, sent to any URL, and what came back."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console, Group

from weighbridge.errors import RefusedError
from weighbridge.lab.progress import following
from weighbridge.lab.report import replica_table, summary, verdict
from weighbridge.lab.traces import TraceRequest, generate, load, requests_of, shipped_trace
from weighbridge.lab.traffic import Outcome, drive

# The generator's sessions for so long; requests beyond `--requests` are not sent.
GENERATED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Options:
    """What `weighbridge load` was asked for."""

    url: str
    model: str
    requests: int
    speed: float
    # None: sessions are generated with these settings.
    trace: Path | None
    generator: dict[str, Any] | None


def read_requests(options: Options) -> list[TraceRequest]:
    """The first requests of the trace. RefusedError where it has fewer."""
    if options.generator is None:
        trace = load(options.trace or shipped_trace())
    else:
        trace = generate(**{"duration_s": GENERATED_SECONDS} | options.generator)
    requests = list(islice(requests_of(trace), options.requests))
    if len(requests) < options.requests:
        raise RefusedError(f"the trace holds {len(requests)} requests, not {options.requests}")
    return requests


async def run(options: Options, console: Console) -> dict[str, Any]:
    """Sends the requests at their times and sums up what came of them."""
    requests = read_requests(options)
    with following(console, len(requests)) as on_done:
        outcomes = await drive(options.url, options.model, requests, options.speed, on_done)
    return result(outcomes)


def result(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The run as `--json` writes it; of replicas what their answers say (`x-served-by`)."""
    replicas = sorted({outcome.replica for outcome in outcomes if outcome.replica})
    found = summary(replicas, outcomes, [], [])
    del found["decisions"]
    for row in found["replicas"]:
        del row["mu"]
    return found


def render(found: dict[str, Any]) -> Group:
    """The run for people."""
    return Group(replica_table(found["replicas"], "Replicas"), verdict(found))


def parse_url(text: str) -> str:
    """A gateway's URL; `host:port` is one too. RefusedError for a path, which each request has."""
    url = text if "://" in text else f"http://{text}"
    url = url.rstrip("/")
    if url.count("/") > 2:
        raise RefusedError(
            f"{text}: give the gateway's address alone, such as http://127.0.0.1:10000"
        )
    return url
