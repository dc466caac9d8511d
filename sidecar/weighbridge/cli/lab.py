"""The subcommands that run things on one machine: `emulate`, `up`, `load`."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer

from weighbridge.cli.options import (
    EnvoyOption,
    GenerateOption,
    JsonOption,
    SeedOption,
    WorkloadOption,
    generated,
)
from weighbridge.errors import EXIT_FAILED
from weighbridge.process.output import write_json


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
    seed: SeedOption = 0,
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
    seed: SeedOption = 1,
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
    json_file: JsonOption = None,
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


def load(
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
    generate: GenerateOption = None,
    workload: WorkloadOption = None,
    json_file: JsonOption = None,
) -> None:
    """Send the traffic of a trace to a gateway, and say what was answered by whom, and how soon.

    Example: weighbridge load http://127.0.0.1:10000 --model llama-3.1-8b
    """
    from rich.console import Console

    from weighbridge.lab import load as driving

    made = generated(trace, workload, generate)
    options = driving.Options(
        url=driving.parse_url(url),
        model=model,
        requests=requests,
        speed=speed,
        trace=trace,
        generator=made,
    )
    console = Console(stderr=str(json_file) == "-")
    found = asyncio.run(driving.run(options, console))
    console.print(driving.render(found))
    if json_file is not None:
        write_json(found, json_file)
    raise typer.Exit(0 if found["ok"] == found["requests"] else EXIT_FAILED)
