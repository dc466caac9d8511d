"""What several subcommands have in common: their options, and how results are given."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weighbridge.process.output import write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from weighbridge.net.asking import Sidecar

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, YAML.")
]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result; - is standard output."),
]
EnvoyOption = Annotated[
    Path | None,
    typer.Option(
        "--envoy", metavar="FILE", help="Envoy binary; default: that of weighbridge[demo]."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Random seed.")]
GenerateOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Generate a trace instead: 'defaults', or settings that differ from them.",
    ),
]
WorkloadOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Generate what people run: chat, reasoning, agents, batch, embeddings, images, short,"
        " or mixed: each of these a tenant. --generate changes its settings.",
    ),
]


@dataclass(frozen=True, slots=True)
class Reach:
    """How a command reaches a running sidecar; each field is an option of the command."""

    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="The configuration, YAML."),
    ] = None
    admin: Annotated[
        str | None,
        typer.Option("--admin", metavar="URL", help="The sidecar's admin pages; else by --config."),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="The admin pages' token."),
    ] = None
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="FILE",
            help="Authorities that the admin pages' certificate is from, PEM.",
        ),
    ] = None
    cert: Annotated[
        Path | None,
        typer.Option("--cert", metavar="FILE", help="Certificate to show the admin pages, PEM."),
    ] = None
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", help="Its private key, PEM, if not in the same file."
        ),
    ] = None

    def sidecar(self) -> "Sidecar":
        """The sidecar that is meant: as given, as configured, or where it is by default."""
        from weighbridge.admin import access
        from weighbridge.config.file import Config
        from weighbridge.config.reading import load
        from weighbridge.net.asking import Sidecar, client_tls

        if self.admin is not None and self.config is not None:
            raise typer.BadParameter("give either --config or --admin")
        token = (
            None if self.token_file is None else access.read_token(self.token_file, "--token-file")
        )
        tls = client_tls(self.ca, self.cert, self.key)
        if self.admin is not None:
            scheme = "http" if tls is None else "https"
            return Sidecar(
                self.admin if "://" in self.admin else f"{scheme}://{self.admin}", token, tls
            )
        settings = Config().admin if self.config is None else load(self.config).admin
        scheme = "http" if settings.tls is None else "https"
        if token is None and self.config is not None and settings.token_file is not None:
            token = access.read_token(self.config.parent / settings.token_file, "admin.token_file")
        return Sidecar(f"{scheme}://{settings.address}", token, tls)


def reaching(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes a `reach` has the options of one instead."""
    options = inspect.get_annotations(Reach)
    own = inspect.signature(command, eval_str=True).parameters.values()

    @functools.wraps(command)
    def reaches(**given: Any) -> None:
        reach = Reach(**{name: given.pop(name) for name in options})
        command(**given, reach=reach)

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in options.items()
    ]
    parameters = [*(one for one in own if one.name != "reach"), *added]
    # What typer makes options of.
    reaches.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    reaches.__annotations__ = {one.name: one.annotation for one in parameters}
    return reaches


def give(found: object, json_file: Path | None, shown: Callable[[], "RenderableType"]) -> None:
    """Shows a result, unless its JSON goes there, and writes it where asked."""
    from rich.console import Console

    if str(json_file) != "-":
        Console().print(shown())
    if json_file is not None:
        write_json(found, json_file)


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
