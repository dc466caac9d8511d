"""A soak: `python -m tests.soak --minutes 60`. Moderate load for long, and what must hold after it.

Memory is flat, every ledger is at zero, and what was billed is what the replies say, to 0.1 %.
First as many requests as fill every bounded table, quickly: an hour at a moderate load does not,
and then a table that fills and one that grows for ever look alike.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from weighbridge.errors import RefusedError
from weighbridge.lab.processes import Family
from weighbridge.lab.stack import Stack, StackOptions
from weighbridge.lab.traces import TraceRequest, generate, requests_of
from weighbridge.lab.traffic import Outcome, drive, output_tokens

SAMPLE_SECONDS = 5.0
SETTLE_SECONDS = 60.0
# Of the first quarter's median to the last quarter's.
MOST_GROWTH = 0.01
# Fills the prefix index (62,000 blocks) and the records that profiles are held against (10,000).
FILL_REQUESTS = 20_000
FILL_RATE = 12.0
FILL_SPEED = 15.0
MOST_OFF = 0.001
TENANTS = 20
WATCHED = ("serve", "envoy")


@dataclass(frozen=True, slots=True)
class Report:
    """What the soak came to."""

    minutes: float
    rate_rps: float
    transport: str
    requests: int
    failed: int
    # Before anything came, and when the tables were full.
    idle_mb: dict[str, float]
    full_mb: dict[str, float]
    memory_mb: dict[str, list[float]]
    growth: dict[str, float]
    left_in_ledgers: float
    billed_mu: float
    due_mu: float
    counted_mu: float

    def faults(self) -> list[str]:
        """What does not hold; nothing where all does."""
        found = [
            f"{name}'s memory grew by {growth:.1%}"
            for name, growth in self.growth.items()
            if growth > MOST_GROWTH
        ]
        if self.failed:
            found.append(f"{self.failed} requests failed")
        if self.left_in_ledgers:
            found.append(f"{self.left_in_ledgers:g} left in the ledgers")
        for name, mu in (("usage log", self.billed_mu), ("tenants' counters", self.counted_mu)):
            if abs(mu - self.due_mu) > MOST_OFF * self.due_mu:
                found.append(f"the {name} say {mu:,.1f} MU, the replies {self.due_mu:,.1f}")
        return found


def due_mu(profile: dict[str, Any], outcome: Outcome) -> float:
    """What a request costs by its reply's usage, worked out apart from the core."""
    cost = profile["cost"]
    p, c, o = outcome.prompt_tokens, outcome.cached_tokens, outcome.output_tokens
    prefill = cost["prefill_per_tok"] * (p - c)
    attention = cost["prefill_per_tok2_e6"] * 1e-6 * (p * p - c * c)
    decode = o * (cost["decode_per_tok"] + cost["decode_per_ktok_ctx"] * 1e-3 * (p + o / 2))
    return float(prefill + attention + decode + cost.get("overhead", 0.0))


def resident_mb(pid: int) -> float:
    """A process's resident memory, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def growth(samples: Sequence[float]) -> float:
    """From the first quarter's median to the last's, as a share."""
    quarter = max(1, len(samples) // 4)
    return statistics.median(samples[-quarter:]) / statistics.median(samples[:quarter]) - 1


def trace_of(seconds: float, rate: float, seed: int) -> Iterator[TraceRequest]:
    """Requests of generated chats."""
    trace = generate(duration_s=seconds, seed=seed)
    return requests_of(trace, rate=rate, duration_s=seconds, most_tokens=4096)


def left(status: dict[str, Any]) -> float:
    """What the ledgers and the gates say is still under way."""
    keys = ("requests", "prefill_mu", "decode_mu", "kv_tokens")
    carried = sum(abs(replica[key]) for replica in status["replicas"] for key in keys)
    gates = sum(abs(door["running"]) for door in status["admission"].values())
    return float(carried + gates + status["streams"])


def usage_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a usage log and of the files that were set aside."""
    for file in sorted(path.parent.glob(f"{path.name}*")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def tenant(request: TraceRequest) -> dict[str, str]:
    """A tenant by the session, and the length of the answer."""
    number = sum(request.session.encode()) % TENANTS
    return {**output_tokens(request), "x-tenant-id": f"tenant-{number}"}


async def soak(options: argparse.Namespace, directory: Path) -> Report:
    """Runs it."""
    log = directory / "usage.jsonl"
    settings = StackOptions(
        replicas=4,
        speed=options.speed,
        transport=options.transport,
        # Small files, so that they are set aside on the way.
        sidecar={"usage_log": {"path": str(log), "max_bytes": 1 << 20, "files": 1000}},
    )
    seconds = options.minutes * 60
    requests = trace_of(seconds, options.rate, options.seed)
    filling = islice(trace_of(3600.0, FILL_RATE, options.seed + 1), options.fill)
    memory: dict[str, list[float]] = {name: [] for name in WATCHED}
    async with Family(directory) as family:
        stack = Stack(settings, directory, family)
        await stack.start()

        def memory_now() -> dict[str, float]:
            return {name: resident_mb(served(family.running(name).pid)) for name in WATCHED}

        async def sample() -> None:
            while True:
                for name, mb in memory_now().items():
                    memory[name].append(mb)
                await asyncio.sleep(SAMPLE_SECONDS)

        async def send(some: Iterator[TraceRequest], speed: float) -> list[Outcome]:
            driven = drive(stack.url, stack.model, some, speed, lambda _: None, headers=tenant)
            return await stack.unless_one_dies(driven)

        idle = memory_now()
        outcomes = await send(filling, FILL_SPEED)
        full = memory_now()
        sampling = asyncio.create_task(sample())
        outcomes += await send(requests, 1.0)
        sampling.cancel()
        deadline = time.monotonic() + SETTLE_SECONDS
        while left(status := await stack.status()) and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
        await asyncio.sleep(2.0)
        return Report(
            minutes=options.minutes,
            rate_rps=options.rate,
            transport=options.transport,
            requests=len(outcomes),
            failed=sum(not outcome.is_ok for outcome in outcomes),
            idle_mb=rounded(idle),
            full_mb=rounded(full),
            memory_mb={name: thinned(samples) for name, samples in memory.items()},
            growth={name: round(growth(samples), 4) for name, samples in memory.items()},
            left_in_ledgers=left(status),
            billed_mu=sum(line["mu"] for line in usage_lines(log)),
            due_mu=sum(due_mu(stack.profile, one) for one in outcomes if one.is_ok),
            counted_mu=sum(one["mu"] for one in status["tenants"]),
        )


def served(pid: int) -> int:
    """The process behind a tether: its only child, or itself once it has become the command."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def rounded(memory: dict[str, float]) -> dict[str, float]:
    """To 0.1 MiB."""
    return {name: round(mb, 1) for name, mb in memory.items()}


def thinned(samples: Sequence[float], most: int = 24) -> list[float]:
    """Some of the samples, evenly."""
    step = max(1, len(samples) // most)
    return [round(sample, 1) for sample in samples[::step]]


def main() -> int:
    """0 when everything holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=5.0, help="requests a second")
    parser.add_argument(
        "--fill", type=int, default=FILL_REQUESTS, help="requests before, to fill tables"
    )
    parser.add_argument("--speed", type=float, default=10.0, help="of the emulated engines")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    parser.add_argument("--json", type=Path, help="file for the report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weighbridge-soak-") as directory:
        try:
            report = asyncio.run(soak(options, Path(directory)))
        except RefusedError as error:
            print(f"soak: {error}", file=sys.stderr)
            return 1
    text = json.dumps(asdict(report), indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(f"{text}\n", encoding="utf-8")
    for fault in report.faults():
        print(f"soak: {fault}", file=sys.stderr)
    return 1 if report.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
