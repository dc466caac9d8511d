"""The commands of those who operate a sidecar: `status` and `top`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from weighbridge.errors import EXIT_FAILED

AdminOption = Annotated[
    str | None,
    typer.Option("--admin", metavar="URL", help="The sidecar's admin pages; else by --config."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The configuration, YAML."),
]


def admin_url(admin: str | None, config: Path | None) -> str:
    """Where the sidecar's admin pages are: as given, as configured, or the default."""
    from weighbridge.config import Config, load

    if admin is not None and config is not None:
        raise typer.BadParameter("give either --config or --admin")
    if admin is not None:
        return admin if "://" in admin else f"http://{admin}"
    return f"http://{(load(config) if config else Config()).admin.address}"


def status(
    config: ConfigOption = None,
    admin: AdminOption = None,
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

    found = asyncio.run(joined.joined(admin_url(admin, config), envoy_admin))
    if str(json_file) != "-":
        Console().print(joined.render(found))
    if json_file is not None:
        write_json(found, json_file)
    if found["contradictions"]:
        raise typer.Exit(EXIT_FAILED)
