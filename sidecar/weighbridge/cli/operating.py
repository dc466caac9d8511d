"""The commands of those who operate a sidecar: `status`, `capacity`, `top`, `whatif`, `drain`…"""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weighbridge.errors import EXIT_FAILED, RefusedError
from weighbridge.process.output import write_json

if TYPE_CHECKING:
    from weighbridge.net.asking import Sidecar

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
    typer.Option("--token-file", metavar="FILE", help="The admin pages' token."),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca", metavar="FILE", help="Authorities that the admin pages' certificate is from, PEM."
    ),
]
CertOption = Annotated[
    Path | None,
    typer.Option("--cert", metavar="FILE", help="Certificate to show the admin pages, PEM."),
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Its private key, PEM, if not in the same file."),
]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result; - is standard output."),
]
ReplicaArgument = Annotated[
    str, typer.Argument(metavar="REPLICA", help="The replica, ip:port as the sidecar knows it.")
]
# A simulation may take this long, and is given up at twenty.
WHATIF_SECONDS = 30.0


def sidecar_of(
    *,
    admin: str | None,
    config: Path | None,
    token_file: Path | None,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> "Sidecar":
    """The sidecar that is meant: as given, as configured, or where it is by default."""
    from weighbridge.admin import access
    from weighbridge.config.file import Config
    from weighbridge.config.reading import load
    from weighbridge.net.asking import Sidecar, client_tls

    if admin is not None and config is not None:
        raise typer.BadParameter("give either --config or --admin")
    token = None if token_file is None else access.read_token(token_file, "--token-file")
    tls = client_tls(ca, cert, key)
    if admin is not None:
        scheme = "http" if tls is None else "https"
        return Sidecar(admin if "://" in admin else f"{scheme}://{admin}", token, tls)
    settings = Config().admin if config is None else load(config).admin
    scheme = "http" if settings.tls is None else "https"
    if token is None and config is not None and settings.token_file is not None:
        token = access.read_token(config.parent / settings.token_file, "admin.token_file")
    return Sidecar(f"{scheme}://{settings.address}", token, tls)


def status(
    *,
    config: ConfigOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    envoy_admin: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Envoy's admin port; else the sidecar's own."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Join the sidecar's view with Envoy's and name what contradicts; exit code 1 if anything does.

    Example: weighbridge status --config weighbridge.yaml
    """
    from rich.console import Console

    from weighbridge.cli import joined

    sidecar = sidecar_of(
        admin=admin, config=config, token_file=token_file, ca=ca, cert=cert, key=key
    )
    found = asyncio.run(joined.joined(sidecar, envoy_admin))
    if str(json_file) != "-":
        Console().print(joined.render(found))
    if json_file is not None:
        write_json(found, json_file)
    if found["contradictions"]:
        raise typer.Exit(EXIT_FAILED)


def capacity(
    *,
    config: ConfigOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    json_file: JsonOption = None,
) -> None:
    """Show what each model's replicas serve, what is promised of it, used and free.

    Exit code 1 if more is promised of a model than its replicas serve now.

    Example: weighbridge capacity --config weighbridge.yaml
    """
    from rich.console import Console

    from weighbridge.admin import capacity as reckoning

    sidecar = sidecar_of(
        admin=admin, config=config, token_file=token_file, ca=ca, cert=cert, key=key
    )
    found = reckoning.capacities(asyncio.run(sidecar.page("/status")))
    if str(json_file) != "-":
        Console().print(reckoning.table(found))
    if json_file is not None:
        write_json(reckoning.as_json(found), json_file)
    if any(one.is_short for one in found.values()):
        raise typer.Exit(EXIT_FAILED)


def top(
    *,
    config: ConfigOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many looks; default: at Ctrl-C.")
    ] = None,
) -> None:
    """Show replicas, tenants and decisions of a running sidecar, live in the terminal.

    Example: weighbridge top --config weighbridge.yaml
    """
    from rich.console import Console

    from weighbridge.cli import top as screen

    sidecar = sidecar_of(
        admin=admin, config=config, token_file=token_file, ca=ca, cert=cert, key=key
    )
    asyncio.run(screen.run(sidecar, Console(), interval, rounds))


def whatif(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, by any of its names.")],
    *,
    replicas: Annotated[
        int, typer.Option(min=1, max=1000, help="Replicas that the simulator is given.")
    ],
    rate_factor: Annotated[
        float, typer.Option(min=0.01, max=100, help="Multiple of the present rate.")
    ] = 1.0,
    config: ConfigOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
) -> None:
    """Simulate the latest decisions of a running sidecar with more or fewer replicas; prints JSON.

    Example: weighbridge whatif llama-3.1-8b --replicas 4 --config weighbridge.yaml
    """
    question = {"model": model, "replicas": replicas, "rate_factor": rate_factor}
    sidecar = sidecar_of(
        admin=admin, config=config, token_file=token_file, ca=ca, cert=cert, key=key
    )
    found = asked(sidecar, "/whatif", question, WHATIF_SECONDS)
    write_json(found, Path("-"))


def drain(
    replica: ReplicaArgument,
    *,
    config: ConfigOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
) -> None:
    """Drain a replica: no new session; sessions leave at their next turn; requests in flight end.

    Example: weighbridge drain 10.0.0.7:8000 --config weighbridge.yaml
    """
    change(
        "drain",
        replica,
        sidecar_of(admin=admin, config=config, token_file=token_file, ca=ca, cert=cert, key=key),
    )


def undrain(
    replica: ReplicaArgument,
    *,
    config: ConfigOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
) -> None:
    """Take a drain back: the replica gets sessions again.

    Example: weighbridge undrain 10.0.0.7:8000 --config weighbridge.yaml
    """
    change(
        "undrain",
        replica,
        sidecar_of(admin=admin, config=config, token_file=token_file, ca=ca, cert=cert, key=key),
    )


def change(verb: str, replica: str, sidecar: "Sidecar") -> None:
    """Asks for a drain or its end, and says what came of it."""
    from urllib.parse import quote

    found = asked(sidecar, f"/{verb}?replica={quote(replica, safe='')}", {})
    typer.echo(f"{found['endpoint']}: {found['state']}, {found['requests']} requests in flight")


def asked(sidecar: "Sidecar", path: str, question: object, seconds: float = 5.0) -> Any:
    """The answer to a question that is posted. RefusedError where it is none."""
    from weighbridge.net.asking import problem_of

    code, answer = asyncio.run(sidecar.post(path, json.dumps(question).encode(), seconds))
    if code != 200:
        raise RefusedError(f"{sidecar.url}{path}: {code} {problem_of(answer)}")
    return answer
