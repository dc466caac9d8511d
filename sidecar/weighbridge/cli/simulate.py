"""The subcommand `weighbridge simulate`."""

from pathlib import Path
from typing import Annotated

import typer

from weighbridge.cli.options import (
    GenerateOption,
    JsonOption,
    SeedOption,
    WorkloadOption,
    generated,
)
from weighbridge.process.output import write_json


def simulate(
    *,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Trace to replay, of any known format; default: the shipped one."
        ),
    ] = None,
    trace_format: Annotated[
        str | None, typer.Option(help="Format of the trace; default: told by its first line.")
    ] = None,
    generate: GenerateOption = None,
    workload: WorkloadOption = None,
    replicas: Annotated[int, typer.Option(min=1, max=20_000, help="How many replicas.")] = 16,
    fleet: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=COUNT,...", help="Engines and how many of each, instead of those two."
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:COUNT]", help="Engine of the replicas, or of COUNT of them; repeatable."
        ),
    ] = None,
    believe: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE", help="Profile that the router uses; default: the true one."
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Setting of every engine, such as max_num_tokens=2048."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="Policies, separated by commas; repeatable.")
    ] = None,
    rps: Annotated[
        str | None, typer.Option(help="Requests per second, separated by commas; one run each.")
    ] = None,
    load: Annotated[
        float, typer.Option(min=0.001, help="Without --rps: share of the fleet's capacity.")
    ] = 0.5,
    duration: Annotated[float, typer.Option(min=1, help="Seconds of the trace.")] = 600,
    start: Annotated[float, typer.Option(min=0, help="Second of the trace to start at.")] = 0,
    warmup: Annotated[
        float | None, typer.Option(min=0, help="Seconds before measuring starts; default: a fifth.")
    ] = None,
    time_scale: Annotated[
        float, typer.Option(min=0.001, help="Speed of the trace, as a multiple of real time.")
    ] = 1,
    slo_ttft: Annotated[float, typer.Option(min=0, help="First token within, ms,")] = 2000,
    slo_ttft_per_ktok: Annotated[
        float, typer.Option(min=0, help="and so much more per 1,000 prompt tokens, ms.")
    ] = 150,
    slo_tpot: Annotated[float, typer.Option(min=0, help="Each further token within, ms.")] = 100,
    slo_share: Annotated[
        float, typer.Option(min=0.01, max=0.9999, help="Share of requests that must meet both.")
    ] = 0.99,
    goodput: Annotated[
        bool, typer.Option("--goodput", help="Search for the highest rate that meets the SLO.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, max=50, help="Random seeds of that search.")] = 3,
    seed: SeedOption = 0,
    event: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EVENT", help="Such as 'at=300 kill=3 for=60', 'at=60 slow=2 factor=4'."
        ),
    ] = None,
    events: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of events, one per line.")
    ] = None,
    tenants: Annotated[
        int | None, typer.Option(min=1, help="Number of tenants that share the sessions.")
    ] = None,
    tenant_skew: Annotated[
        float, typer.Option(min=0, max=10, help="How unequal tenants are: 1 is Zipf's law.")
    ] = 1,
    surge: Annotated[
        str | None,
        typer.Option(
            metavar="SURGE",
            help="A time with more requests, such as 'at=240 for=120 factor=2'.",
        ),
    ] = None,
    session_header: Annotated[
        bool, typer.Option(help="Clients name their session in a header.")
    ] = True,
    answers_quoted: Annotated[
        bool,
        typer.Option(help="Next turns quote the engine's own words, which are cached."),
    ] = True,
    streamed: Annotated[
        bool, typer.Option(help="Answers are streamed; else routers see nothing before their end.")
    ] = True,
    telemetry_ms: Annotated[float, typer.Option(min=0, help="Age of replicas' metrics, ms.")] = 50,
    detect_ms: Annotated[
        float, typer.Option(min=0, help="Delay until the router notices a lost replica, ms.")
    ] = 1000,
    core: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Setting of our core, such as placing.samples=8."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Parallel runs; default: one per processor.")
    ] = None,
    timing: Annotated[
        bool, typer.Option("--timing", help="Add each run's wall time, wall_s.")
    ] = False,
    minutes: Annotated[
        bool, typer.Option("--minutes", help="Add the data behind the plots to --json.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="Write plots, as PNG.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Replay a trace before modelled replicas with each policy; the live core is one of them.

    Example: weighbridge simulate --generate defaults --replicas 8 --duration 120
    """
    from rich.console import Console

    from weighbridge.lab import simulate as simulation
    from weighbridge.lab import simulate_report
    from weighbridge.lab.traces import shipped_trace

    if fleet is not None and profile is not None:
        raise typer.BadParameter("give either --fleet or --profile")
    options = simulation.Options(
        trace=trace or shipped_trace(),
        trace_format=trace_format,
        generator=generated(trace, workload, generate),
        fleets=(
            simulation.parse_fleet(fleet, believe)
            if fleet is not None
            else simulation.parse_fleets(profile or [simulation.DEFAULT_ENGINE], replicas, believe)
        ),
        policies=simulation.parse_policies(policy or []),
        engine=simulation.parse_settings(engine or []),
        core=simulation.parse_settings(core or []),
        rates=simulation.parse_rates(rps),
        load=load,
        duration_s=duration,
        start_s=start,
        warmup_s=warmup,
        time_scale=time_scale,
        tenants=tenants,
        tenant_skew=tenant_skew,
        surge=simulation.parse_surge(surge),
        slo_ttft_ms=slo_ttft,
        slo_ttft_ms_per_ktok=slo_ttft_per_ktok,
        slo_tpot_ms=slo_tpot,
        slo_share=slo_share,
        seed=seed,
        goodput=goodput,
        seeds=seeds,
        events=[*(event or []), *simulation.read_events(events)],
        session_header=session_header,
        answers_quoted=answers_quoted,
        streamed=streamed,
        telemetry_ms=telemetry_ms,
        detect_ms=detect_ms,
        jobs=jobs,
        timing=timing,
    )
    to_stderr = str(json_file) == "-"
    console = Console(stderr=to_stderr)
    if not console.is_terminal:
        console = Console(stderr=to_stderr, width=simulate_report.WIDE)
    result = simulation.simulate(options, console)
    simulate_report.show(result, console)
    if json_file is not None:
        write_json(result if minutes else simulation.without_minutes(result), json_file)
    if plot is not None:
        for file in simulation.plots(result, plot):
            console.print(f"wrote {file}")
