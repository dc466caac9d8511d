"""The `weighbridge` command. Each subcommand imports what it needs only when it runs."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from weighbridge import __version__
from weighbridge.cli.bench import bench_app
from weighbridge.cli.calibrate import calibrate, doctor
from weighbridge.cli.operating import (
    CaOption,
    CertOption,
    JsonOption,
    KeyOption,
    TokenOption,
    capacity,
    drain,
    sidecar_of,
    status,
    top,
    undrain,
    whatif,
)
from weighbridge.errors import EXIT_FAILED, ConfigError, RefusedError
from weighbridge.process.output import write_json

EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="weighbridge",
    help="Weighs each LLM request in model units and tells Envoy which replica should carry it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
envoy_app = typer.Typer(help="Envoy's configuration: write it, check it.", no_args_is_help=True)
app.add_typer(envoy_app, name="envoy")
app.add_typer(bench_app, name="bench")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, YAML.")
]
WorkloadOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Generate what people run: chat, reasoning, agents, batch, embeddings, images, short,"
        " or mixed: each of these a tenant. --generate changes its settings.",
    ),
]
EnvoyOption = Annotated[
    Path | None,
    typer.Option(
        "--envoy", metavar="FILE", help="Envoy binary; default: that of weighbridge[demo]."
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"weighbridge {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Weighs each LLM request in model units and tells Envoy which replica should carry it."""


@app.command()
def serve(
    config: ConfigOption,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the configuration, then exit.")
    ] = False,
) -> None:
    """Run the sidecar that Envoy's ext_proc filter asks.

    SIGTERM drains and stops it, SIGHUP or a changed file reloads the configuration.

    Example: weighbridge serve --config weighbridge.yaml
    """
    from weighbridge.serve import service

    if check:
        service.check(config)
        typer.echo(f"{config}: ok")
    else:
        service.run(config)


@app.command()
def explain(
    request: Annotated[
        Path, typer.Argument(metavar="REQUEST.json", help="A body, or path, headers and body.")
    ],
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Configuration; default: an example pool."
        ),
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option("--admin", metavar="URL", help="Ask the sidecar with these admin pages."),
    ] = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    json_file: JsonOption = None,
) -> None:
    """Weigh and place one request by the live code: tokens, cost, candidates, choice, reason.

    Example: weighbridge explain request.json --admin 127.0.0.1:9005
    """
    from rich.console import Console

    from weighbridge.admin import explain as explaining

    if config is not None and admin is not None:
        raise typer.BadParameter("give either --config or --admin")
    try:
        asked = explaining.parse(request.read_bytes())
    except OSError as error:
        raise RefusedError(f"{request}: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(f"{request}: {error}") from None
    if admin is None:
        found = explaining.ask(explaining.core_for(asked, config), asked)
    else:
        sidecar = sidecar_of(
            admin=admin, config=None, token_file=token_file, ca=ca, cert=cert, key=key
        )
        found = asyncio.run(explaining.ask_sidecar(sidecar, asked))
    if str(json_file) != "-":
        Console().print(explaining.render(found))
    if json_file is not None:
        write_json(found, json_file)


@app.command()
def emulate(
    *,
    replicas: Annotated[int, typer.Option(min=1, max=1024, help="How many replicas.")] = 6,
    base_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the first; the others follow it.")
    ] = 8001,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model served; repeatable: replicas take them in turn."),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Engine's profile; repeatable: replicas take them in turn."),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            min=0.001, max=1000, help="Speed of emulated time, as a multiple of real time."
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    control_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port that injects faults into single replicas."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="More of the emulator's fields, YAML."),
    ] = None,
) -> None:
    """Run emulated replicas: trtllm-serve's interface in front of a model of its engine.

    Example: weighbridge emulate --replicas 4 --profile llama-3.1-8b-fp8-h100
    """
    from weighbridge.config.reading import read_yaml
    from weighbridge.lab import emulate as emulator

    settings = {
        "replicas": replicas,
        "base_port": base_port,
        "host": host,
        "models": model or None,
        "profiles": profile or None,
        "speed": speed,
        "seed": seed,
        "control_port": control_port,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    emulator.run(given | (read_yaml(config) if config else {}))


@app.command()
def up(
    *,
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Emulated replicas.")] = 6,
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Requests to send.")] = 300,
    transport: Annotated[
        Literal["native", "grpcio"], typer.Option(help="The sidecar's transport.")
    ] = "native",
    speed: Annotated[
        float,
        typer.Option(
            min=0.001, help="Speed of emulated time and of the trace, as a multiple of real time."
        ),
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 1,
    profile: Annotated[
        str, typer.Option(help="The replicas' profile: a shipped name or a file.")
    ] = "llama-3.1-8b-fp8-h100",
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trace to replay; default: the shipped one.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Envoy's port; default: a free one.")
    ] = None,
    base_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="First replica's port; default: a free one."),
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="The sidecar's admin port; default: a free one."),
    ] = None,
    envoy_admin_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Envoy's admin port; default: a free one.")
    ] = None,
    exit_when_done: Annotated[
        bool, typer.Option("--exit", help="Stop after the traffic instead of staying up.")
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the result; - is standard output."),
    ] = None,
    envoy: EnvoyOption = None,
) -> None:
    """Show it working: emulated replicas, sidecar and a real Envoy on loopback, with traffic.

    Example: weighbridge up --requests 300 --exit
    """
    from rich.console import Console

    from weighbridge.lab import up as demo
    from weighbridge.lab.stack import StackOptions

    options = demo.Options(
        stack=StackOptions(
            replicas=replicas,
            transport=transport,
            speed=speed,
            seed=seed,
            profile=profile,
            listen_port=port,
            base_port=base_port,
            admin_port=admin_port,
            envoy_admin_port=envoy_admin_port,
            envoy=envoy,
            sidecar=demo.sidecar_settings(requests),
        ),
        requests=requests,
        trace=trace,
        exit_when_done=exit_when_done,
        json_file=json_file,
    )
    console = Console(stderr=str(json_file) == "-")
    raise typer.Exit(asyncio.run(demo.run(options, console)))


def generated(
    trace: Path | None, workload: str | None, settings: list[str] | None
) -> dict[str, Any] | None:
    """The generator's settings, where a trace is to be made."""
    from weighbridge.lab.simulate import parse_settings
    from weighbridge.lab.traces import generator

    if trace is not None and (workload is not None or settings is not None):
        raise typer.BadParameter("give either --trace, or --workload and --generate")
    differing = None if settings is None else [one for one in settings if one != "defaults"]
    return generator(workload, None if differing is None else parse_settings(differing))


@app.command("load")
def load_command(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="The gateway, such as http://127.0.0.1:10000.")
    ],
    *,
    model: Annotated[str, typer.Option(help="Model that the requests name.")],
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Requests to send.")] = 300,
    speed: Annotated[
        float, typer.Option(min=0.001, help="Speed of the trace, as a multiple of real time.")
    ] = 1,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Trace to replay; default: the shipped one."),
    ] = None,
    generate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Generate sessions instead: 'defaults', or settings that differ from them.",
        ),
    ] = None,
    workload: WorkloadOption = None,
    json_file: JsonOption = None,
) -> None:
    """Send the traffic of a trace to a gateway, and say what was answered by whom, and how soon.

    Example: weighbridge load http://127.0.0.1:10000 --model llama-3.1-8b
    """
    from rich.console import Console

    from weighbridge.lab import load

    made = generated(trace, workload, generate)
    options = load.Options(
        url=load.parse_url(url),
        model=model,
        requests=requests,
        speed=speed,
        trace=trace,
        generator=made,
    )
    console = Console(stderr=str(json_file) == "-")
    found = asyncio.run(load.run(options, console))
    console.print(load.render(found))
    if json_file is not None:
        write_json(found, json_file)
    raise typer.Exit(0 if found["ok"] == found["requests"] else EXIT_FAILED)


@app.command()
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
    generate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Generate a trace instead: 'defaults', or settings that differ from them.",
        ),
    ] = None,
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
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
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
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the result; - is standard output."),
    ] = None,
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


@envoy_app.command("render")
def envoy_render(
    config: ConfigOption,
    style: Annotated[Literal["yaml", "json"], typer.Option("--format", help="Output format.")] = (
        "yaml"
    ),
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Output file; default: stdout."),
    ] = None,
    ads: Annotated[
        bool,
        typer.Option("--ads", help="Fail if discovery.ads.address is unset."),
    ] = False,
) -> None:
    """Write Envoy's bootstrap file for a configuration.

    With `discovery.ads.address` Envoy gets its list of replicas from the sidecar.

    Example: weighbridge envoy render --config weighbridge.yaml --output envoy.yaml
    """
    from weighbridge.config.reading import load
    from weighbridge.envoy.bootstrap import render

    loaded = load(config)
    if ads and loaded.discovery.ads.address is None:
        raise ConfigError(f"{config}: discovery.ads.address: must be given for --ads")
    text = render(loaded, style)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"{output}: {error.strerror}") from None


@envoy_app.command("validate")
def envoy_validate(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A bootstrap file, YAML or JSON.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Or: what would be rendered for it."),
    ] = None,
    envoy: EnvoyOption = None,
) -> None:
    """Let Envoy check a bootstrap file, without starting it.

    Example: weighbridge envoy validate envoy.yaml
    """
    from weighbridge.config.reading import load
    from weighbridge.envoy import binary

    if (file is None) == (config is None):
        raise typer.BadParameter("give either FILE or --config")
    found = binary.find(envoy)
    if config is not None:
        from weighbridge.envoy.bootstrap import render

        binary.validate_text(found, render(load(config)), ".yaml")
    elif file is not None:
        binary.validate(found, file)
    typer.echo(f"{file or config}: ok")


app.command()(status)
app.command()(capacity)
app.command()(top)
app.command()(whatif)
app.command()(drain)
app.command()(undrain)
app.command()(calibrate)
app.command()(doctor)


def main() -> None:
    """Runs the command; what goes wrong is said on standard error, a line for each mistake."""
    try:
        app()
    except RefusedError as error:
        sys.stderr.writelines(f"weighbridge: {problem}\n" for problem in error.problems)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)
