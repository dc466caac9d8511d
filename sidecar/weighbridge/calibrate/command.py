"""The `weighbridge calibrate` command: options to a run, progress, files."""

import asyncio
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from weighbridge.calibrate import drift, report, silicon
from weighbridge.calibrate import profile as profiles
from weighbridge.calibrate.design import Domain
from weighbridge.calibrate.engine.http import Connection, HttpTarget
from weighbridge.calibrate.engine.target import Activity, Ask, AskError, Facts
from weighbridge.calibrate.engine.words import Words
from weighbridge.calibrate.experiment import Budget, Experiment
from weighbridge.calibrate.measure import Bench
from weighbridge.calibrate.outcome import About, Outcome, conclude
from weighbridge.calibrate.state import Header, State
from weighbridge.config.profiles import load_profile, locate
from weighbridge.errors import EXIT_FAILED, RefusedError
from weighbridge.process.output import write_json

USUAL_BATCH = 256
USUAL_NUM_TOKENS = 8192
USUAL_BLOCK_TOKENS = 32
LONGEST_PROMPT = 16_384
PROMPT_SHARE = 0.4
"""Of the cache, that the longest prompt may fill."""
IDLE_SECONDS = 1.0
IDLE_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    url: str
    model: str | None
    out: Path
    report: Path | None
    json_file: Path | None
    name: str | None
    reference: str | None
    seconds: float
    tokens: int
    max_prompt: int | None
    max_batch: int | None
    max_num_tokens: int | None
    max_seq_len: int | None
    kv_tokens: int | None
    gpu: str
    gpus: int
    images: bool
    time_scale: float
    seed: int | None
    state: Path | None
    fresh: bool


async def run(options: Options, console: Console) -> int:
    """Calibrates; answers the exit code: 0 for a profile that may be used, else 1."""
    async with Connection(options.url, options.model, options.time_scale) as target:
        outcome = await measure(target, options, console)
    heading = f"{outcome.profile['name']}: {outcome.judgement.verdict}"
    profiles.write(options.out, outcome.profile, heading)
    if options.report is not None:
        report.write(options.report, outcome, profiles.text(outcome.profile, heading))
    if options.json_file is not None:
        write_json(outcome.json(), options.json_file)
    show(outcome, options, console)
    return EXIT_FAILED if outcome.judgement.trust == "not trusted" else 0


def calibrate(options: Options, console: Console) -> int:
    """Runs a calibration; an interruption says how to go on."""
    try:
        return asyncio.run(run(options, console))
    except KeyboardInterrupt:
        console.print("interrupted: the same command goes on from here")
        raise


def check(reference: str, logs: Sequence[Path], json_file: Path | None, console: Console) -> int:
    """Holds a profile against usage logs; 1 when it should be measured again."""
    if not logs:
        raise RefusedError("--check needs at least one --usage FILE")
    profile = load_profile(locate(reference, Path()))
    finding = drift.check(profile, drift.read(logs, str(profile["name"])))
    if json_file is not None:
        write_json(finding.json(), json_file)
    console.print(f"{finding.profile}: {finding.verdict}")
    for what, factor in (("steps", finding.decode), ("prompts", finding.prefill)):
        console.print(
            f"  {what}: {factor.value:.2f} of the profile's time"
            f" ({factor.low:.2f} to {factor.high:.2f}, {factor.requests} requests)"
        )
    return EXIT_FAILED if finding.recalibrate else 0


def from_tables(out: Path, tables: Path | None, console: Console) -> int:
    """Makes the shipped profiles from NVIDIA's tables, asked now or as kept in a file."""
    today = datetime.now(UTC).date()
    found = silicon.read(tables) if tables is not None else silicon.query(today)
    for path in silicon.write_all(out, found):
        console.print(str(path))
    return 0


async def measure(target: HttpTarget, options: Options, console: Console) -> Outcome:
    """Runs the experiment, going on from the state file if there is one."""
    chance_seed = int.from_bytes(os.urandom(8)) if options.seed is None else options.seed
    words = Words(chance_seed)
    facts = await introduce(target, words)
    reference = load_reference(options.reference)
    engine, domain = plan(facts, options)
    with_images = options.images and await takes_images(target, words)
    domain = Domain(
        max_prompt=domain.max_prompt,
        max_batch=domain.max_batch,
        max_num_tokens=domain.max_num_tokens,
        kv_tokens=domain.kv_tokens,
        images=with_images,
        tells_cached=await tells_cached(target, words),
    )
    state_path = options.state or options.out.with_suffix(".state.jsonl")
    if options.fresh:
        state_path.unlink(missing_ok=True)
    header = Header(
        url=options.url,
        model=target.model,
        time_scale=options.time_scale,
        engine=facts.version,
        max_prompt=domain.max_prompt,
        max_batch=domain.max_batch,
    )
    state = State.open(header, state_path)
    if state.resumed:
        console.print(
            f"goes on from {state_path}: {len(state.measured)} measurements", soft_wrap=True
        )
    await require_idle(target, console)
    experiment = Experiment(
        target=target,
        bench=Bench(target, words),
        state=state,
        domain=domain,
        budget=Budget(options.seconds, options.tokens),
        chance=random.Random(chance_seed),  # noqa: S311
        time_scale=options.time_scale,
    )
    with Display(console, options.seconds) as display:
        experiment.say = display.say
        experiment.progress = display.update
        await experiment.run()
    outcome = conclude(
        state.measured, about(facts, options, engine, domain.max_batch, reference), experiment.notes
    )
    state.remove()
    return outcome


async def introduce(target: HttpTarget, words: Words) -> Facts:
    """Finds out how to talk to the replica, and what it says of itself."""
    await target.settle_interface(Ask(own=words.text(24), output=2))
    for _ in range(2):
        await target.ask(Ask(own=words.text(24), output=4))
    return await target.facts()


async def takes_images(target: HttpTarget, words: Words) -> bool:
    """Whether a request with an image is served."""
    try:
        await target.ask(Ask(own=words.text(24), output=1, images=(words.image(512),)))
    except AskError as error:
        if error.is_refusal or error.status == 500:
            return False
        raise
    return True


async def tells_cached(target: HttpTarget, words: Words) -> bool:
    """Whether usage tells the cached tokens of a prompt that was there before."""
    shared = words.text(600)
    answers = [await target.ask(Ask(own=words.text(40), output=1, shared=shared)) for _ in range(2)]
    return bool(answers[-1].cached_tokens)


async def require_idle(target: HttpTarget, console: Console) -> None:
    """Waits a little for others to leave. RefusedError when they do not."""
    await brief_activity(target)
    for look in range(IDLE_LOOKS):
        await asyncio.sleep(IDLE_SECONDS)
        seen = await brief_activity(target)
        if seen is None or not (seen.active or seen.iterations):
            return
        others = max(1, seen.active)
        if not look:
            console.print(f"[yellow]the replica is busy with {others} requests of others: waiting")
    raise RefusedError(
        f"the replica is busy with {others} requests of others: calibrate it when it is idle"
    )


async def brief_activity(target: HttpTarget) -> Activity | None:
    """The replica's activity; None if it makes us wait, as it does when nothing runs."""
    try:
        async with asyncio.timeout(0.5):
            return await target.activity()
    except TimeoutError:
        return None


def plan(facts: Facts, options: Options) -> tuple[profiles.Engine, Domain]:
    """The engine's limits, and how far the experiment goes within them."""
    kv_tokens = options.kv_tokens or facts.kv_tokens
    if kv_tokens is None:
        raise RefusedError(
            f"{options.url} does not tell its KV capacity on /metrics (trtllm-serve does with"
            " enable_iter_perf_stats: true): give it with --kv-tokens"
        )
    block = facts.block_tokens or USUAL_BLOCK_TOKENS
    batch = facts.max_batch_size or options.max_batch or USUAL_BATCH
    tokens = options.max_num_tokens or facts.max_num_tokens or USUAL_NUM_TOKENS
    longest_sequence = options.max_seq_len or facts.max_model_len
    longest = min(
        options.max_prompt or LONGEST_PROMPT,
        int(kv_tokens * PROMPT_SHARE),
        (longest_sequence or 1 << 30) - 512,
    )
    if longest < 256:
        raise RefusedError(f"prompts of {longest} tokens are too short to calibrate with")
    engine = profiles.Engine(kv_tokens, min(block, kv_tokens), batch, tokens, longest_sequence)
    domain = Domain(
        max_prompt=longest,
        max_batch=max(1, min(batch, options.max_batch or USUAL_BATCH)),
        max_num_tokens=tokens,
        kv_tokens=kv_tokens,
    )
    return engine, domain


def load_reference(name: str | None) -> dict[str, Any] | None:
    """The profile that MU are normalised to."""
    return None if name is None else load_profile(locate(name, Path()))


def about(
    facts: Facts,
    options: Options,
    engine: profiles.Engine,
    max_batch: int,
    reference: dict[str, Any] | None,
) -> About:
    """What the profile says beside the fit."""
    hardware: dict[str, Any] = {}
    if options.gpu:
        hardware = {"gpu": options.gpu, "gpus": options.gpus}
    settings = {"version": facts.version} if facts.version else {}
    models = tuple(reference["models"]) if reference else (facts.model,)
    return About(
        name=options.name or options.out.stem,
        models=models if facts.model in models else (*models, facts.model),
        engine=engine,
        max_batch=max_batch,
        day=datetime.now(UTC).date(),
        hardware=hardware,
        settings=settings,
        reference=reference,
    )


class Display:
    """A line that says what is measured and how long it will still take; notes above it."""

    def __init__(self, console: Console, budget_seconds: float) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<36}"),
            BarColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._budget = budget_seconds
        self._task = self._progress.add_task("", total=1.0, left="")
        self._begin = datetime.now(UTC)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, label: str, left_seconds: float) -> None:
        """Says what begins now."""
        spent = (datetime.now(UTC) - self._begin).total_seconds()
        whole = max(spent + left_seconds, 1e-3)
        minutes, seconds = divmod(round(left_seconds), 60)
        self._progress.update(
            self._task,
            description=label,
            completed=spent / whole,
            left=f"about {minutes}:{seconds:02} left",
        )

    def say(self, note: str) -> None:
        """A line that stays."""
        self._progress.console.print(f"[yellow]{note}")


def show(outcome: Outcome, options: Options, console: Console) -> None:
    """The result for people."""
    table = Table(title=f"{outcome.profile['name']}", title_justify="left")
    for title in ("coefficient", "value", "95 % interval", "unit"):
        table.add_column(title, justify="left" if title in ("coefficient", "unit") else "right")
    for one in outcome.coefficients:
        table.add_row(
            one.name,
            f"{one.value:.5g}",
            f"{one.low:.5g} to {one.high:.5g}",
            report.UNITS.get(one.name, ""),
            style=None if one.matters else "dim",
        )
    console.print(table)
    console.print(
        f"capacity {outcome.capacity:,.0f} MU a minute, KV cache"
        f" {outcome.profile['kv_tokens']:,} tokens"
    )
    colour = {"trusted": "green", "usable": "yellow", "not trusted": "red"}
    console.print(f"[{colour[outcome.judgement.trust]}]{outcome.judgement.verdict}")
    for warning in outcome.judgement.warnings[1:]:
        console.print(f"  {warning}")
    console.print(f"profile: {options.out}", soft_wrap=True)
    if options.report is not None:
        console.print(f"report: {options.report / 'report.html'}", soft_wrap=True)
