"""The `weighbridge` command. Each subcommand imports what it needs only when it runs."""

import asyncio
import sys
from typing import Annotated

import typer

from weighbridge import __version__
from weighbridge.cli.bench import bench_app
from weighbridge.cli.calibrate import calibrate, doctor
from weighbridge.cli.envoy import envoy_app
from weighbridge.cli.lab import emulate, load, up
from weighbridge.cli.operating import capacity, drain, explain, status, top, undrain, whatif
from weighbridge.cli.options import ConfigOption
from weighbridge.cli.simulate import simulate
from weighbridge.errors import EXIT_FAILED, RefusedError

EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="weighbridge",
    help="Weighs each LLM request in model units and tells Envoy which replica should carry it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


for command in (
    explain,
    emulate,
    up,
    load,
    simulate,
    status,
    capacity,
    top,
    whatif,
    drain,
    undrain,
    calibrate,
    doctor,
):
    app.command()(command)
app.add_typer(envoy_app, name="envoy")
app.add_typer(bench_app, name="bench")


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
