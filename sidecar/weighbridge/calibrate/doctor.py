"""The `weighbridge doctor` command: what a live replica lacks of what we need, and the remedy."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
from rich.console import Console
from rich.table import Table

from weighbridge.calibrate.engine import stats
from weighbridge.calibrate.engine.http import Connection, HttpTarget, models
from weighbridge.calibrate.engine.target import Answer, Ask, AskError
from weighbridge.calibrate.engine.words import Words
from weighbridge.errors import EXIT_FAILED
from weighbridge.process.output import write_json

State = Literal["ok", "missing", "advised"]

PREFIX_TOKENS = 600
LONGEST_PROBE = 20_000
STREAM_TOKENS = 16
ABANDONED_TOKENS = 1500
ABORT_SECONDS = 2.5


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    needed_for: str
    remedy: str = ""


@dataclass(slots=True)
class Patient:
    """A replica under examination."""

    target: HttpTarget
    session: aiohttp.ClientSession
    url: str
    words: Words
    records: list[dict[str, Any]] | dict[str, float] | None = None


async def examine(
    url: str, model: str | None, profile: Mapping[str, Any] | None = None, seed: int = 1
) -> list[Check]:
    """All checks, in the order in which one builds on another."""
    async with Connection(url, model, 1.0) as target:
        patient = Patient(target, target.session, url.rstrip("/"), Words(seed))
        found = [await health(patient), await answers(patient)]
        if profile is not None:
            found.append(await names(patient, profile))
        if found[1].state == "missing":
            return found
        checks: tuple[Callable[[Patient], Awaitable[Check]], ...] = (
            streams_usage,
            fixed_length,
            statistics,
            kv_capacity,
            block_reuse,
            chunked_prefill,
            aborts,
        )
        for check in checks:
            try:
                found.append(await check(patient))
            except AskError as error:
                found.append(
                    Check(check.__name__.replace("_", " "), "missing", str(error), "everything")
                )
        return found


async def health(patient: Patient) -> Check:
    """Whether it says that it is ready."""
    status = await get_status(patient, "GET", "/health")
    return Check(
        "health",
        "ok" if status == 200 else "missing",
        f"/health answers {status}" if status else "/health does not answer",
        "probing before traffic, ejecting when it fails",
        "" if status == 200 else "serve /health, or set health.path to what there is",
    )


async def answers(patient: Patient) -> Check:
    """Whether it answers a chat, or at least a completion."""
    listed = await models(patient.session, patient.url)
    names = ", ".join(str(one.get("id")) for one in listed) or "no model"
    try:
        await patient.target.settle_interface(Ask(own=patient.words.text(24), output=2))
    except AskError as error:
        return Check("requests", "missing", str(error), "everything", "read the replica's log")
    interface = patient.target.interface
    return Check(
        "requests",
        "ok" if interface == "chat" else "advised",
        f"serves {names}; answers /v1/{'chat/' if interface == 'chat' else ''}completions",
        "everything",
        "" if interface == "chat" else "give the model a chat template (--chat_template)",
    )


async def names(patient: Patient, profile: Mapping[str, Any]) -> Check:
    """Whether the profile knows the replica's model by the name that the replica gives it."""
    served = [str(one.get("id")) for one in await models(patient.session, patient.url)]
    unknown = [name for name in served if name not in profile["models"]]
    return Check(
        "model names",
        "missing" if unknown or not served else "ok",
        f"serves {', '.join(served) or 'no model'}; {profile['name']} has"
        f" {', '.join(profile['models'])}",
        "requests by the replica's own name for its model: others get 404",
        f"list {', '.join(unknown)} in the profile's models" if unknown else "",
    )


async def streams_usage(patient: Patient) -> Check:
    """Whether a stream ends with its usage."""
    stream = await patient.target.open(Ask(own=patient.words.text(40), output=STREAM_TOKENS))
    answer = await stream.finish()
    tokens = len(stream.times)
    usage = answer.prompt_tokens > 0 and answer.output_tokens > 0
    return Check(
        "usage in streams",
        "ok" if usage else "missing",
        f"{answer.prompt_tokens} prompt and {answer.output_tokens} output tokens told,"
        f" {tokens} seen",
        "true costs: token ratios, output predictor, tenants' bills",
        "" if usage else "use a server that honours stream_options.include_usage",
    )


async def fixed_length(patient: Patient) -> Check:
    """Whether an answer's length can be fixed, which calibration needs."""
    answer = await patient.target.ask(Ask(own=patient.words.text(40), output=48))
    exact = answer.output_tokens == 48
    return Check(
        "answers of a given length",
        "ok" if exact else "advised",
        f"48 tokens asked, {answer.output_tokens} given",
        "weighbridge calibrate",
        "" if exact else "use a server that takes ignore_eos and min_tokens",
    )


async def statistics(patient: Patient) -> Check:
    """Whether it tells of its load."""
    patient.records = await patient.target.statistics()
    purpose = "telemetry: foreign load, queues, KV use; exact calibration"
    if isinstance(patient.records, list) and patient.records:
        return Check("statistics", "ok", f"{len(patient.records)} iteration records", purpose)
    if isinstance(patient.records, dict) and stats.gauge_activity(patient.records) is not None:
        return Check("statistics", "ok", "Prometheus gauges of running requests", purpose)
    return Check(
        "statistics",
        "missing",
        "/metrics tells nothing of requests or iterations",
        purpose,
        "LLM API YAML: enable_iter_perf_stats: true",
    )


async def kv_capacity(patient: Patient) -> Check:
    """Whether it tells how many tokens its cache holds."""
    records = patient.records
    facts = (
        stats.record_facts(records)
        if isinstance(records, list)
        else stats.gauge_facts(records)
        if records is not None
        else {}
    )
    tokens = facts.get("kv_tokens", 0)
    return Check(
        "KV capacity",
        "ok" if tokens else "advised",
        f"{tokens:,} tokens in blocks of {facts.get('block_tokens', 0)}" if tokens else "not told",
        "the second dimension of load: memory",
        "" if tokens else "enable_iter_perf_stats: true, or kv_tokens in the profile by hand",
    )


async def block_reuse(patient: Patient) -> Check:
    """Whether a prompt that was there before is found in the cache, and told."""
    shared = patient.words.text(PREFIX_TOKENS)
    await ask_shared(patient, shared)
    second = await ask_shared(patient, shared)
    purpose = "cache affinity: without reuse there is nothing to route for"
    if second.cached_tokens:
        return Check(
            "block reuse", "ok", f"{second.cached_tokens} of {second.prompt_tokens} cached", purpose
        )
    told = second.cached_tokens is not None
    return Check(
        "block reuse",
        "missing" if told else "advised",
        "a repeated prompt is computed again" if told else "usage does not tell cached tokens",
        purpose,
        "LLM API YAML: kv_cache_config: {enable_block_reuse: true}"
        if told
        else "use a server whose usage has prompt_tokens_details.cached_tokens",
    )


async def ask_shared(patient: Patient, shared: str) -> Answer:
    """A request that begins with a given text."""
    return await patient.target.ask(Ask(own=patient.words.text(40), output=1, shared=shared))


async def chunked_prefill(patient: Patient) -> Check:
    """Whether a prompt longer than a step's token budget is taken."""
    purpose = "long prompts, and short waits behind them"
    records = patient.records if isinstance(patient.records, list) else []
    budget = stats.record_facts(records).get("max_num_tokens", 0)
    wanted = int(budget * 1.2)
    if not budget or wanted > LONGEST_PROBE:
        found = f"a step takes {budget:,} tokens" if budget else "the step's budget is not told"
        return Check("chunked prefill", "advised", f"not tried: {found}", purpose)
    try:
        await patient.target.ask(Ask(own=patient.words.text(wanted), output=1))
    except AskError as error:
        if not error.is_refusal:
            raise
        return Check(
            "chunked prefill",
            "missing",
            f"a prompt of {wanted:,} tokens is refused",
            purpose,
            "LLM API YAML: enable_chunked_prefill: true",
        )
    return Check("chunked prefill", "ok", f"a prompt of {wanted:,} tokens is taken", purpose)


async def aborts(patient: Patient) -> Check:
    """Whether the work for a client that went away is given up."""
    purpose = "a ledger that is true: what clients abandon frees the replica"
    if not isinstance(patient.records, list):
        return Check("aborts", "advised", "not tried: no iteration records", purpose)
    ask = Ask(own=patient.words.text(40), output=ABANDONED_TOKENS)
    stream = asyncio.create_task(patient.target.stream(ask, lambda _at, _tokens: None))
    await asyncio.sleep(0.3)
    was_done = stream.done()
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)
    await asyncio.sleep(ABORT_SECONDS)
    await drain(patient)
    await asyncio.sleep(0.3)
    busy = await drain(patient)
    if was_done:
        return Check("aborts", "advised", "not tried: the answer came too fast", purpose)
    return Check(
        "aborts",
        "advised" if busy else "ok",
        "goes on generating for a client that left" if busy else "stops when the client leaves",
        purpose,
        "use a version of the server that aborts on disconnect" if busy else "",
    )


async def drain(patient: Patient) -> int:
    """Iterations since the last call; 0 if the replica makes us wait for one."""
    try:
        async with asyncio.timeout(0.4):
            found = await patient.target.statistics()
    except TimeoutError:
        return 0
    return len(found) if isinstance(found, list) else 0


async def get_status(patient: Patient, method: str, path: str) -> int:
    """The status of a route; 0 if it does not answer."""
    timeout = aiohttp.ClientTimeout(total=5)
    try:
        async with patient.session.request(method, patient.url + path, timeout=timeout) as response:
            return response.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return 0


def run(
    url: str,
    model: str | None,
    profile: Mapping[str, Any] | None,
    json_file: Path | None,
    console: Console,
) -> int:
    """Examines and reports; 1 when something needed is missing."""
    found = asyncio.run(examine(url, model, profile))
    healthy = not any(one.state == "missing" for one in found)
    if json_file is not None:
        facts = {"replica": url, "healthy": healthy, "checks": [asdict(one) for one in found]}
        write_json(facts, json_file)
    show(found, console)
    return 0 if healthy else EXIT_FAILED


def show(found: list[Check], console: Console) -> None:
    """For people: what was found, and below it what to switch on."""
    table = Table(title="Replica", title_justify="left", show_lines=False)
    for title in ("", "check", "found", "needed for"):
        table.add_column(title)
    marks = {"ok": "[green]ok", "missing": "[red]missing", "advised": "[yellow]advised"}
    for one in found:
        table.add_row(marks[one.state], one.name, one.found, one.needed_for)
    console.print(table)
    for one in found:
        if one.remedy:
            console.print(f"{one.name}: {one.remedy}", markup=False)
