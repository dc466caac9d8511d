"""`weighbridge simulate`: policies side by side before modelled replicas, under a virtual clock."""

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from weighbridge import _core
from weighbridge.config import core as live
from weighbridge.config.admission import Admission
from weighbridge.config.health import Health, Telemetry
from weighbridge.config.placing import Placing
from weighbridge.config.profiles import load_profile, locate, shipped_names
from weighbridge.errors import ConfigError, RefusedError
from weighbridge.lab.traces import generate, load

T = TypeVar("T")

# Student's t for a two-sided 95 % interval, by degrees of freedom; beyond the last, as the last.
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
OURS = "weighbridge"
# A model that most would serve on more than one replica, and that leaves room for a cache.
DEFAULT_ENGINE = "llama-3.1-70b-fp8-h100x4"
# The workload whose tenants are the others.
MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas that are alike: how their engine behaves, and what the router believes of it."""

    engine: str
    count: int
    # A shipped profile's name or a file; None: the truth, or the shipped profile of that name.
    profile: str | None = None
    domains: int = 1


@dataclass(frozen=True, slots=True)
class Options:
    """What `weighbridge simulate` was asked for."""

    trace: Path | None
    fleets: Sequence[Fleet]
    policies: Sequence[str]
    generator: Mapping[str, Any] | None = None
    trace_format: str | None = None
    sessions_per_s: float | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    core: Mapping[str, Any] = field(default_factory=dict)
    # Requests a second, one run each; none: `load` times what the replicas can do.
    rates: Sequence[float] = ()
    load: float = 0.5
    # Several such loads, instead.
    loads: Sequence[float] = ()
    duration_s: float | None = 600.0
    start_s: float = 0.0
    warmup_s: float | None = None
    time_scale: float = 1.0
    tenants: int | None = None
    tenant_skew: float = 1.0
    # One tenant more, {"tenant": name, "rate": requests a second}, the same at any rate or load.
    steady: Mapping[str, Any] | None = None
    # A time with more requests: {"at_s", "for_s", "factor"}.
    surge: Mapping[str, float] | None = None
    slo_ttft_ms: float = 2000.0
    slo_ttft_ms_per_ktok: float = 150.0
    slo_tpot_ms: float = 100.0
    slo_share: float = 0.99
    seed: int = 0
    goodput: bool = False
    seeds: int = 3
    precision: float = 0.03
    events: Sequence[str] = ()
    session_header: bool = True
    answers_quoted: bool = True
    streamed: bool = True
    # What the live core is told of answers' lengths, "known" or {"tokens": N}; none: it predicts.
    told_length: str | dict[str, int] | None = None
    telemetry_ms: float = 50.0
    detect_ms: float = 1000.0
    jobs: int | None = None
    timing: bool = False


def capacity_rps(options: Options) -> float:
    """Requests a second of the options' trace that its replicas serve if they cache nothing."""
    trace = read_trace(options)
    scenario = json.dumps(scenario_of(options, trace))
    return float(_core.Simulation(scenario, trace, json.dumps(scaling_of(options))).capacity_rps)


def simulate(options: Options, console: Console | None = None) -> dict[str, Any]:
    """Does all runs; what they came to, for tables, plots and scripts."""
    unknown = [name for name in options.policies if name not in _core.policies()]
    if unknown:
        known = ", ".join(_core.policies())
        raise RefusedError(f"there is no policy '{unknown[0]}' (there are: {known})")
    trace = read_trace(options)
    scenario = scenario_of(options, trace)
    try:
        simulation = _core.Simulation(json.dumps(scenario), trace, json.dumps(scaling_of(options)))
        loads = options.loads or (options.load,)
        rates = list(options.rates) or [round(load * simulation.capacity_rps, 2) for load in loads]
        runs = Runs(options, simulation, console)
        goodput = runs.search(rates[0]) if options.goodput else []
        if options.goodput:
            at = {one["policy"]: [one["goodput_rps"] or rates[0]] for one in goodput}
        else:
            at = dict.fromkeys(options.policies, rates)
        outcomes = runs.run(at)
    except _core.CoreError as error:
        raise RefusedError(str(error)) from None
    return {
        "trace": {
            "name": trace.name,
            "requests": trace.requests,
            "sessions": trace.sessions,
            "rate_rps": round(trace.rate, 4),
        },
        "scenario": described(options, scenario),
        "rows": [outcome["row"] for outcome in outcomes],
        "details": [outcome["detail"] for outcome in outcomes],
        "goodput": goodput,
    }


def read_trace(options: Options) -> _core.Trace:
    """The trace from its file, or made."""
    if options.generator is not None:
        return generate(**generator_of(options, options.generator))
    if options.trace is None:
        raise RefusedError("there is no trace to replay")
    more = {} if options.sessions_per_s is None else {"sessions_per_s": options.sessions_per_s}
    return load(options.trace, options.trace_format, seed=options.seed, **more)


def generator_of(options: Options, given: Mapping[str, Any]) -> dict[str, Any]:
    """The generator's settings: as long as the run, with as many tenants as it has."""
    more: dict[str, Any] = {"seed": options.seed}
    if options.duration_s is not None:
        more["duration_s"] = options.duration_s
    if options.tenants is not None and given.get("workload") != MIXED:
        more |= {"tenants": options.tenants, "tenant_skew": options.tenant_skew}
    return {**more, **given}


def deals_tenants(options: Options) -> bool:
    """Whether sessions are given to tenants; those that are generated have their own already."""
    made = options.generator
    return made is None or made.get("workload") == MIXED


def scaling_of(options: Options) -> dict[str, Any]:
    """How the trace is replayed, as the core takes it."""
    return {
        "time_scale": options.time_scale,
        "start_s": options.start_s,
        "duration_s": options.duration_s,
        "tenants": options.tenants if deals_tenants(options) else None,
        "tenant_skew": options.tenant_skew,
        "steady": options.steady,
        "surge": options.surge,
        "seed": options.seed,
    }


def scenario_of(options: Options, trace: _core.Trace) -> dict[str, Any]:
    """Everything besides the trace and the policy, as the core takes it."""
    length = options.duration_s
    if length is None:
        length = trace.requests / trace.rate / options.time_scale
    warmup = options.warmup_s if options.warmup_s is not None else length / 5
    return {
        "replicas": [group_of(fleet, options.engine) for fleet in options.fleets],
        "slo": {
            "ttft_ms": options.slo_ttft_ms,
            "ttft_ms_per_ktok": options.slo_ttft_ms_per_ktok,
            "tpot_ms": options.slo_tpot_ms,
            "share": options.slo_share,
        },
        "seed": options.seed,
        "warmup_s": warmup,
        "telemetry_ms": options.telemetry_ms,
        "detect_ms": options.detect_ms,
        "session_header": options.session_header,
        "answers_quoted": options.answers_quoted,
        "streamed": options.streamed,
        "told_length": options.told_length,
        "round_s": Placing().round_seconds,
        "events": list(options.events),
        "core": core_of(options.core),
    }


def core_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The live core as it ships, but for what is given."""
    shipped: dict[str, Any] = {
        "placing": live.placing(Placing()),
        "admission": live.admission(Admission()),
        "health": live.health(Health(), Telemetry()),
    }
    return over(shipped, given)


def over(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over others, section by section."""
    merged = dict(base)
    for key, value in given.items():
        known = merged.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            merged[key] = over(known, value)
        else:
            merged[key] = value
    return merged


def group_of(fleet: Fleet, engine: Mapping[str, Any]) -> dict[str, Any]:
    """One kind of replicas. A shipped profile of the engine's name is what the router believes."""
    if fleet.engine not in _core.engines():
        known = ", ".join(_core.engines())
        raise RefusedError(f"no engine is called '{fleet.engine}' (there are: {known})")
    reference = fleet.profile or (fleet.engine if fleet.engine in shipped_names() else None)
    profile = None if reference is None else load_profile(locate(reference, Path()))
    return {
        "engine": {"base": fleet.engine, **engine},
        "count": fleet.count,
        "profile": profile,
        "domains": fleet.domains,
    }


def described(options: Options, scenario: Mapping[str, Any]) -> dict[str, Any]:
    """The scenario as the result states it: names instead of whole profiles."""
    fleets = [
        {"engine": fleet.engine, "count": fleet.count, "profile": fleet.profile}
        for fleet in options.fleets
    ]
    # Of the core only what differs from what ships.
    told = {key: value for key, value in scenario.items() if key != "replicas"}
    told["core"] = dict(options.core)
    return {
        "replicas": fleets,
        "engine": dict(options.engine),
        **told,
        "duration_s": options.duration_s,
        "start_s": options.start_s,
        "time_scale": options.time_scale,
        "tenants": options.tenants,
        "tenant_skew": options.tenant_skew,
        "surge": options.surge,
        "generator": options.generator,
    }


class Runs:
    """Runs of one simulation, side by side on all processors."""

    def __init__(
        self, options: Options, simulation: _core.Simulation, console: Console | None
    ) -> None:
        self.options = options
        self.simulation = simulation
        self.console = console

    def run(self, rates: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
        """A run of each policy at each of its rates; rows in this order."""
        wanted = [(policy, rate) for policy, several in rates.items() for rate in several]
        # Runs of one rate share what is made ready for it: together they need it but once.
        order = sorted(range(len(wanted)), key=lambda at: wanted[at][1])

        def one(at: int, progress: _core.Progress) -> dict[str, Any]:
            policy, rate = wanted[at]
            start = time.perf_counter()
            text = self.simulation.run(policy, rate, progress=progress)
            outcome: dict[str, Any] = json.loads(text)
            if self.options.timing:
                outcome["row"]["wall_s"] = round(time.perf_counter() - start, 2)
            outcome["detail"] = {"policy": policy, "rate_rps": rate, **outcome["detail"]}
            return outcome

        done = dict(zip(order, self._all("runs", order, one), strict=True))
        return [done[at] for at in range(len(wanted))]

    def search(self, guess_rps: float) -> list[dict[str, Any]]:
        """Each policy's goodput, with its confidence over the seeds."""
        options = self.options
        tasks = [(policy, seed) for policy in options.policies for seed in range(options.seeds)]
        settings = json.dumps({"start_rps": guess_rps, "precision": options.precision})

        def one(task: tuple[str, int], progress: _core.Progress) -> dict[str, Any]:
            policy, seed = task
            found: dict[str, Any] = json.loads(
                self.simulation.goodput(policy, seed, settings, progress)
            )
            return found

        found = self._all("searches", tasks, one)
        searches: dict[str, list[dict[str, Any]]] = {policy: [] for policy in options.policies}
        for (policy, seed), one_found in zip(tasks, found, strict=True):
            searches[policy].append({"seed": seed, **one_found})
        rates = {policy: [one["rps"] for one in each] for policy, each in searches.items()}
        ours = rates.get(OURS)
        return [
            {
                **confidence(policy, own),
                "of_ours": None if ours is None else shares(own, ours),
                "searches": searches[policy],
            }
            for policy, own in rates.items()
        ]

    def _all(
        self, what: str, tasks: Sequence[T], work: Callable[[T, _core.Progress], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        progress = _core.Progress()
        jobs = self.options.jobs or os.cpu_count() or 1
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            futures = [pool.submit(work, task, progress) for task in tasks]
            try:
                with bar(self.console, what, len(tasks)) as update:
                    wait(futures, progress, update)
                return [future.result() for future in futures]
            except BaseException:
                progress.stop()
                pool.shutdown(cancel_futures=True)
                raise


def confidence(policy: str, rates: Sequence[float]) -> dict[str, Any]:
    """The mean over the seeds, and its 95 % interval."""
    mean, half = interval(rates)
    return {
        "policy": policy,
        "goodput_rps": round(mean, 3),
        "low_rps": round(max(0.0, mean - half), 3),
        "high_rps": round(mean + half, 3),
        "seeds_rps": [round(rate, 3) for rate in rates],
    }


def shares(rates: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """A policy's goodput as a share of ours, seed by seed: its mean and 95 % interval.

    Seeds differ more than policies do on one seed, so this tells policies apart best.
    """
    pairs = zip(rates, ours, strict=True)
    mean, half = interval([theirs / own for theirs, own in pairs if own > 0] or [0.0])
    return {
        "mean": round(mean, 4),
        "low": round(max(0.0, mean - half), 4),
        "high": round(mean + half, 4),
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval."""
    if len(values) < 2:
        return statistics.fmean(values), 0.0
    freedom = min(len(values) - 1, len(T_95))
    half = T_95[freedom - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


Update = Callable[[int, tuple[int, int]], None]


def wait(
    futures: Sequence[Future[dict[str, Any]]], progress: _core.Progress, update: Update
) -> None:
    """Waits for all, telling how far they are; what one raises ends it at once."""
    while True:
        done = [future for future in futures if future.done()]
        for future in done:
            future.result()
        update(len(done), progress.steps())
        if len(done) == len(futures):
            return
        time.sleep(0.05)


@contextmanager
def bar(console: Console | None, what: str, total: int) -> Iterator[Update]:
    """A progress bar, where a person looks."""
    if console is None or not console.is_terminal:
        yield lambda done, steps: None
        return
    columns = (
        TextColumn("{task.fields[what]}"),
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[count]}"),
        TextColumn("{task.completed:,.0f} requests"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None, what=what, done=0, count=total)

        def update(done: int, steps: tuple[int, int]) -> None:
            # What later runs will need is not known yet: it is taken to be as the present ones.
            simulated, known = steps
            running = max(1, done + (os.cpu_count() or 1))
            expected = known * max(1.0, total / min(running, total))
            shown.update(task, completed=simulated, total=expected or None, done=done)

        yield update


def parse_fleets(profiles: Sequence[str], replicas: int, believed: str | None) -> list[Fleet]:
    """`NAME` or `NAME:COUNT`; those without a count share the replicas evenly."""
    named = [
        profile.rpartition(":") if ":" in profile else (profile, "", "") for profile in profiles
    ]
    counted = [(name, count) for name, colon, count in named if colon]
    if counted and len(counted) != len(named):
        raise ConfigError("--profile: give a count with each of them, or with none")
    if counted:
        bad = [count for _, count in counted if not (count.isdigit() and int(count) > 0)]
        if bad:
            raise ConfigError(f"--profile: '{bad[0]}' is no number of replicas")
        return [Fleet(name, int(count), believed) for name, count in counted]
    share, rest = divmod(replicas, len(named))
    fleets = [Fleet(name, share + (at < rest), believed) for at, (name, _, _) in enumerate(named)]
    return [fleet for fleet in fleets if fleet.count]


def parse_fleet(text: str, believed: str | None) -> list[Fleet]:
    """`NAME=COUNT,NAME=COUNT`."""
    fleets = []
    for part in text.split(","):
        name, equals, count = part.strip().partition("=")
        if not (name and equals and count.isdigit() and int(count) > 0):
            raise ConfigError(f"--fleet: '{part}' is no PROFILE=COUNT")
        fleets.append(Fleet(name, int(count), believed))
    return fleets


def parse_surge(text: str | None) -> dict[str, float] | None:
    """`at=SECONDS for=SECONDS factor=TIMES`."""
    if text is None:
        return None
    pairs = dict(part.partition("=")[::2] for part in text.split())
    keys = {"at": "at_s", "for": "for_s", "factor": "factor"}
    try:
        if set(pairs) == set(keys):
            return {name: float(pairs[key]) for key, name in keys.items()}
    except ValueError:
        pass
    raise ConfigError(f"--surge: '{text}' is not of the form 'at=240 for=120 factor=2'")


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}; values are JSON, or text where they are none."""
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{text}' is no KEY=VALUE")
        *path, last = key.split(".")
        into = found
        for part in path:
            into = into.setdefault(part, {})
            if not isinstance(into, dict):
                raise ConfigError(f"'{text}': '{part}' has a value already")
        try:
            into[last] = json.loads(value)
        except ValueError:
            into[last] = value
    return found


def parse_policies(given: Sequence[str]) -> list[str]:
    """Names by commas; all where none is given."""
    names = [name for text in given for name in text.split(",") if name]
    return list(dict.fromkeys(names)) or _core.policies()


def parse_rates(given: str | None) -> list[float]:
    """Rates by commas."""
    try:
        rates = [float(text) for text in (given or "").split(",") if text]
    except ValueError:
        rates = [0.0]
    if not all(0 < rate < math.inf for rate in rates):
        raise ConfigError(f"--rps: '{given}' holds something other than numbers above 0")
    return rates


def read_events(file: Path | None) -> list[str]:
    """Events of a file, one a line; `#` at a line's start begins a comment."""
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"{file}: {error}") from None
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def plots(result: Mapping[str, Any], directory: Path) -> list[Path]:
    """Writes plots; the files. RefusedError where matplotlib is missing."""
    try:
        from weighbridge.lab import simulate_plots  # noqa: PLC0415
    except ImportError:
        raise RefusedError("plots need matplotlib: pip install 'weighbridge[plots]'") from None
    try:
        return simulate_plots.write(result, directory)
    except OSError as error:
        raise RefusedError(f"{directory}: {error.strerror}") from None


def without_minutes(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result as `--json` writes it: without what only plots need."""
    dropped = ("minutes", "ttft_percentiles_ms", "tpot_percentiles_ms")
    details = [
        {key: value for key, value in detail.items() if key not in dropped}
        for detail in result["details"]
    ]
    return {**result, "details": details}
