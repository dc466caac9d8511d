"""The commands of those who operate a sidecar: `status` and `top`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weighbridge.errors import EXIT_FAILED

if TYPE_CHECKING:
    from weighbridge.asking import Sidecar

AdminOption = Annotated[
    str | None,
    typer.Option("--admin", metavar="URL", help="The sidecar's admin pages; else by --config."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The configuration, YAML."),
]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="The admin pages' token, with --admin."),
]


def sidecar_of(admin: str | None, config: Path | None, token_file: Path | None) -> "Sidecar":
    """The sidecar that is meant: as given, as configured, or where it is by default."""
    from weighbridge import access
    from weighbridge.asking import Sidecar
    from weighbridge.config import Config, load

    if admin is not None and config is not None:
        raise typer.BadParameter("give either --config or --admin")
    if admin is not None:
        token = None if token_file is None else access.read_token(token_file, "--token-file")
        return Sidecar(admin if "://" in admin else f"http://{admin}", token)
    settings = Config().admin if config is None else load(config).admin
    scheme = "http" if settings.tls is None else "https"
    token = None
    if config is not None and settings.token_file is not None:
        token = access.read_token(config.parent / settings.token_file, "admin.token_file")
    return Sidecar(f"{scheme}://{settings.address}", token)


def status(
    config: ConfigOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    envoy_admin: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Envoy's admin port; else the sidecar's own."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the result; - is standard output."),
    ] = None,
) -> None:
    """Join the sidecar's view with Envoy's and name what contradicts; exit code 1 if anything does.

    Example: weighbridge status --config weighbridge.yaml
    """
    from rich.console import Console

    from weighbridge import joined
    from weighbridge.output import write_json

    found = asyncio.run(joined.joined(sidecar_of(admin, config, token_file), envoy_admin))
    if str(json_file) != "-":
        Console().print(joined.render(found))
    if json_file is not None:
        write_json(found, json_file)
    if found["contradictions"]:
        raise typer.Exit(EXIT_FAILED)


def top(
    config: ConfigOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Look so often and end; else until Ctrl-C.")
    ] = None,
) -> None:
    """Show replicas, tenants and decisions of a running sidecar, live in the terminal.

    Example: weighbridge top --config weighbridge.yaml
    """
    from rich.console import Console

    from weighbridge import top as screen

    sidecar = sidecar_of(admin, config, token_file)
    asyncio.run(screen.run(sidecar, Console(), interval, rounds))
