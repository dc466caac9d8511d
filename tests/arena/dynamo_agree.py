"""Asks Dynamo's selection service what the simulator's `dynamo_kv` decided, in the same state.

python -m tests.arena.dynamo_agree --peers .peers

The simulator keeps a diary of each run: prompts as hashes of blocks, what each replica had cached
and cost, the choice, the first token, the end. The service is told the same in the same order. It
may choose otherwise; what it then books is what the simulator chose, so that both go on from one
state. What is printed: how often it chose a replica that `dynamo_kv` finds cheapest, in all and
where the choice is clear, that is where the second cheapest costs a good part more.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.arena import results
from tests.arena.contestants import LOOPBACK
from tests.arena.dynamo import service, worker
from weighbridge import _core
from weighbridge.errors import RefusedError
from weighbridge.lab.ports import find_free_run
from weighbridge.lab.processes import Family
from weighbridge.lab.simulate import Fleet, Options, read_trace, scaling_of, scenario_of
from weighbridge.lab.stack import answers
from weighbridge.lab.traces import generator, shipped_trace

POLICY, MODEL = "dynamo_kv", "replayed"
# A choice is clear where the second cheapest replica costs so much more, as a share.
CLEAR = 0.05
# What share of clear choices must agree.
BAR = 0.95
# The service's blocks count only in its own measures of how full a worker is.
KV_TOKENS = 1 << 20

Note = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision: what each replica costs by `dynamo_kv`, and whom the service names."""

    number: int
    costs: Mapping[int, float]
    theirs: int
    cached: bool

    @property
    def agrees(self) -> bool:
        """Whether the service names one of the cheapest."""
        return self.costs[self.theirs] <= min(self.costs.values())

    @property
    def margin(self) -> float:
        """How much more the second cheapest costs, as a share of the cheapest."""
        ordered = sorted(self.costs.values())
        return (ordered[1] - ordered[0]) / ordered[0] if len(ordered) > 1 else 0.0


def diary(options: Options, load: float) -> list[Note]:
    """What the simulator's policy was asked, weighed and saw."""
    trace = read_trace(options)
    scenario = scenario_of(options, trace) | {"with_diary": True}
    scaling = json.dumps(scaling_of(options))
    simulation = _core.Simulation(json.dumps(scenario), trace, scaling)
    outcome = json.loads(simulation.run(POLICY, load * simulation.capacity_rps, bounds=False))
    found: list[Note] = outcome["detail"]["diary"]
    return found


def told_apart(block: int, ask: int) -> int:
    """A block's hash that no other request's blocks have, as the service's JSON has hashes."""
    return hash((block, ask)) & ((1 << 63) - 1)


class Selector:
    """The selection service, told what the diary says."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(self._url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def replay(self, notes: Sequence[Note], replicas: int) -> list[Choice]:
        """Follows the diary. Workers are numbered from 1."""
        block = next((int(note["block_tokens"]) for note in notes if "ask" in note), 1)
        for place in range(replicas):
            content = worker(place + 1, MODEL, f"http://replica-{place}", block, KV_TOKENS)
            await self._ask("POST", "/workers", content)
        asked: dict[int, Note] = {}
        choices = []
        for note in notes:
            match note:
                case {"ask": number}:
                    asked[number] = note
                    choices.append(await self._choose(note))
                case {"sent": number, "to": replica, "prefill_tokens": tokens}:
                    prompt = self._prompt(asked[number], number)
                    await self._book(f"r{number}", replica, prompt, tokens)
                case {"first": number}:
                    await self._ask("POST", f"/reservations/r{number}/prefill_complete")
                case {"end": number}:
                    await self._ask("DELETE", f"/reservations/r{number}")
        return choices

    async def _choose(self, note: Note) -> Choice:
        """What the service chooses where each replica has cached what the diary says.

        It has no way to be told that a block is gone. So blocks are called otherwise for each
        request, and each replica is made to have seen as much of this one as it has cached; what
        is in use is counted by other hashes, which stay.
        """
        number, block = int(note["ask"]), int(note["block_tokens"])
        prompt = self._prompt(note, number)
        for replica, cached, _ in note["weighed"]:
            blocks = prompt["block_hashes"][: cached // block]
            if blocks:
                seen = {"block_hashes": blocks, "sequence_hashes": blocks, "isl_tokens": cached}
                await self._book("seen", replica, seen, 0)
                await self._ask("DELETE", "/reservations/seen")
        chosen = await self._ask("POST", "/select", {"model_name": MODEL, **prompt})
        return Choice(
            number=number,
            costs={replica: cost for replica, _, cost in note["weighed"]},
            theirs=int(chosen["worker_id"]) - 1,
            cached=any(cached for _, cached, _ in note["weighed"]),
        )

    def _prompt(self, note: Note, salt: int) -> dict[str, Any]:
        return {
            "block_hashes": [told_apart(block, salt) for block in note["blocks"]],
            "sequence_hashes": [block >> 1 for block in note["blocks"]],
            "isl_tokens": note["tokens"],
        }

    async def _book(self, name: str, replica: int, prompt: Mapping[str, Any], tokens: int) -> None:
        content = {
            "selection_id": name,
            "model_name": MODEL,
            "worker_id": replica + 1,
            "dp_rank": 0,
            "effective_prefill_tokens": tokens,
            **prompt,
        }
        await self._ask("POST", "/reservations", content)

    async def _ask(
        self, method: str, path: str, content: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        if self._session is None:
            raise RuntimeError("the session has not been opened")
        async with self._session.request(method, path, json=content) as answer:
            if not answer.ok:
                raise RefusedError(f"{path}: {answer.status} {(await answer.text())[:200]}")
            found: dict[str, Any] = await answer.json()
            return found


def summary(choices: Sequence[Choice]) -> dict[str, Any]:
    """How often both agree."""
    clear = [choice for choice in choices if choice.margin > CLEAR]
    return {
        "asked": len(choices),
        "with_something_cached": sum(choice.cached for choice in choices),
        "agree": share(choices),
        "clear": len(clear),
        "clear_agree": share(clear),
        "disagreed": [
            {
                "request": choice.number,
                "margin": round(choice.margin, 4),
                "theirs_costs_more": round(
                    choice.costs[choice.theirs] / min(choice.costs.values()) - 1, 4
                ),
            }
            for choice in sorted(clear, key=lambda choice: -choice.margin)
            if not choice.agrees
        ][:10],
    }


def share(choices: Iterable[Choice]) -> float | None:
    """The share that agrees; None of nothing."""
    agree = [choice.agrees for choice in choices]
    return round(sum(agree) / len(agree), 4) if agree else None


async def compare(python: Path, options: Options, load: float) -> dict[str, Any]:
    """One run of the simulator, and the service asked about it."""
    notes = diary(options, load)
    with tempfile.TemporaryDirectory(prefix="dynamo-") as name:
        async with Family(Path(name)) as family:
            port = find_free_run(1)
            command, environment = service(str(python), port)
            await family.start("dynamo", command, environment)
            url = f"http://{LOOPBACK}:{port}"
            await answers(f"{url}/health")
            async with Selector(url) as selector:
                choices = await selector.replay(notes, options.fleets[0].count)
    return summary(choices)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.arena.dynamo_agree", description=__doc__)
    parser.add_argument(
        "--peers", type=Path, required=True, help="folder with dynamo's environment"
    )
    parser.add_argument(
        "--workloads", default="trace,agents,chat", help="by commas; trace: shipped"
    )
    parser.add_argument("--loads", default="0.4,0.9", help="of what the replicas can do, by commas")
    parser.add_argument("--profile", default="llama-3.1-70b-fp8-h100x4")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each run")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    """The exit code: 1 where less than the bar of the clear choices agree in any setting."""
    options = arguments()
    python = (options.peers / "dynamo/bin/python").absolute()
    base = Options(
        trace=shipped_trace(),
        fleets=[Fleet(options.profile, options.replicas)],
        policies=[POLICY],
        duration_s=options.seconds,
        warmup_s=0.0,
        seed=options.seed,
    )
    rows = []
    for name in options.workloads.split(","):
        made = base if name == "trace" else replace(base, generator=generator(name, {}))
        for load in (float(text) for text in options.loads.split(",")):
            found = asyncio.run(compare(python, made, load))
            rows.append({"workload": name, "load": load, **found})
    enough = all(row["clear"] == 0 or row["clear_agree"] >= BAR for row in rows)
    print(
        json.dumps(
            {
                "ai-dynamo": results.version("ai-dynamo", options.peers),
                "profile": options.profile,
                "replicas": options.replicas,
                "seconds": options.seconds,
                "clear_margin": CLEAR,
                "bar": BAR,
                "holds": enough,
                "rows": rows,
            },
            indent=1,
        )
    )
    return 0 if enough else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RefusedError as problem:
        sys.exit(f"dynamo_agree: {problem}")
