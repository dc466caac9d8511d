"""The commands of those who operate a sidecar: `status`, `capacity`, `top`, `whatif`, `drain`…"""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weighbridge.cli.options import JsonOption, Reach, give, reaching
from weighbridge.errors import EXIT_FAILED, ConfigError, RefusedError
from weighbridge.process.output import write_json

if TYPE_CHECKING:
    from weighbridge.net.asking import Sidecar

ReplicaArgument = Annotated[
    str, typer.Argument(metavar="REPLICA", help="The replica, ip:port as the sidecar knows it.")
]
# A simulation may take this long, and is given up at twenty.
WHATIF_SECONDS = 30.0


@reaching
def status(
    *,
    reach: Reach,
    envoy_admin: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Envoy's admin port; else the sidecar's own."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Join the sidecar's view with Envoy's and name what contradicts; exit code 1 if anything does.

    Example: weighbridge status --config weighbridge.yaml
    """
    from weighbridge.cli import joined

    found = asyncio.run(joined.joined(reach.sidecar(), envoy_admin))
    give(found, json_file, lambda: joined.render(found))
    if found["contradictions"]:
        raise typer.Exit(EXIT_FAILED)


@reaching
def capacity(
    *,
    reach: Reach,
    json_file: JsonOption = None,
) -> None:
    """Show what each model's replicas serve, what is promised of it, used and free.

    Exit code 1 if more is promised of a model than its replicas serve now.

    Example: weighbridge capacity --config weighbridge.yaml
    """
    from weighbridge.admin import capacity as reckoning

    found = reckoning.capacities(asyncio.run(reach.sidecar().page("/status")))
    give(reckoning.as_json(found), json_file, lambda: reckoning.table(found))
    if any(one.is_short for one in found.values()):
        raise typer.Exit(EXIT_FAILED)


@reaching
def top(
    *,
    reach: Reach,
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

    asyncio.run(screen.run(reach.sidecar(), Console(), interval, rounds))


@reaching
def whatif(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, by any of its names.")],
    *,
    replicas: Annotated[
        int, typer.Option(min=1, max=1000, help="Replicas that the simulator is given.")
    ],
    rate_factor: Annotated[
        float, typer.Option(min=0.01, max=100, help="Multiple of the present rate.")
    ] = 1.0,
    reach: Reach,
) -> None:
    """Simulate the latest decisions of a running sidecar with more or fewer replicas; prints JSON.

    Example: weighbridge whatif llama-3.1-8b --replicas 4 --config weighbridge.yaml
    """
    question = {"model": model, "replicas": replicas, "rate_factor": rate_factor}
    found = asked(reach.sidecar(), "/whatif", question, WHATIF_SECONDS)
    write_json(found, Path("-"))


@reaching
def drain(
    replica: ReplicaArgument,
    *,
    reach: Reach,
) -> None:
    """Drain a replica: no new session; sessions leave at their next turn; requests in flight end.

    Example: weighbridge drain 10.0.0.7:8000 --config weighbridge.yaml
    """
    change(
        "drain",
        replica,
        reach.sidecar(),
    )


@reaching
def undrain(
    replica: ReplicaArgument,
    *,
    reach: Reach,
) -> None:
    """Take a drain back: the replica gets sessions again.

    Example: weighbridge undrain 10.0.0.7:8000 --config weighbridge.yaml
    """
    change(
        "undrain",
        replica,
        reach.sidecar(),
    )


@reaching
def explain(
    request: Annotated[
        Path, typer.Argument(metavar="REQUEST.json", help="A body, or path, headers and body.")
    ],
    *,
    reach: Reach,
    json_file: JsonOption = None,
) -> None:
    """Weigh and place one request by the live code: tokens, cost, candidates, choice, reason.

    With --admin by a running sidecar, with its caches and load; with --config by a new one; else by
    an example pool.

    Example: weighbridge explain request.json --admin 127.0.0.1:9005
    """
    from weighbridge.admin import explain as explaining

    try:
        asked = explaining.parse(request.read_bytes())
    except OSError as error:
        raise RefusedError(f"{request}: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(f"{request}: {error}") from None
    if reach.admin is None:
        found = explaining.ask(explaining.core_for(asked, reach.config), asked)
    else:
        found = asyncio.run(explaining.ask_sidecar(reach.sidecar(), asked))
    give(found, json_file, lambda: explaining.render(found))


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
