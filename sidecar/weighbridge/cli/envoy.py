"""The subcommands of `weighbridge envoy`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from weighbridge.cli.options import ConfigOption, EnvoyOption
from weighbridge.errors import ConfigError, RefusedError

envoy_app = typer.Typer(help="Envoy's configuration: write it, check it.", no_args_is_help=True)


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
