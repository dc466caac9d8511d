"""The subcommands of `weighbridge bench`."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from weighbridge.cli.options import EnvoyOption, JsonOption
from weighbridge.process.output import write_json

bench_app = typer.Typer(help="Measure decisions, and Envoy with the sidecar.", no_args_is_help=True)


@bench_app.command("decision")
def decision(
    seconds: Annotated[float, typer.Option(min=0.1, help="For each row, s.")] = 2.0,
    json_file: JsonOption = None,
) -> None:
    """Time decisions in the core: bodies x replicas x size of the prefix index.

    Example: weighbridge bench decision --json decision.json
    """
    from weighbridge.lab.bench import decision as bench

    console = _console(json_file)

    def told(row: dict[str, Any]) -> None:
        console.print(
            f"{row['body_bytes']:>8} B, {row['replicas']:>5} replicas,"
            f" {row['index_blocks']:>8} blocks: p50 {row['p50_us']:.1f} µs,"
            f" p99 {row['p99_us']:.1f} µs"
        )

    result = bench.run(seconds, told)
    console.print(bench.table(result["rows"]))
    memory = result["memory"]
    console.print(
        f"memory: {memory['rss_mb']:.0f} MB with {memory['replicas']:,} replicas,"
        f" {memory['index_blocks']:,} blocks, {memory['sessions']:,} sessions"
    )
    _write(result, json_file)


@bench_app.command("transport")
def transport(
    seconds: Annotated[float, typer.Option(min=1, help="For each run of wrk, s.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 5,
    envoy: EnvoyOption = None,
    json_file: JsonOption = None,
) -> None:
    """Drive a real Envoy with no ext_proc server, a constant one, and both transports.

    Example: weighbridge bench transport --json transport.json
    """
    from weighbridge.lab.bench import transport as bench

    console = _console(json_file)
    options = bench.Options(seconds=seconds, rounds=rounds, envoy=envoy)
    result = asyncio.run(bench.run(options, lambda part: console.print(f"{part} …")))
    console.print(bench.table("Envoy answers itself, one worker", result["rows"]))
    console.print(bench.table("with an upstream", result["upstream"]))
    for name, value in result["ratios"].items():
        console.print(f"{name}: {value:,.3f}")
    _write(result, json_file)


def _console(json_file: Path | None) -> Console:
    return Console(stderr=str(json_file) == "-")


def _write(result: dict[str, Any], json_file: Path | None) -> None:
    if json_file is not None:
        write_json(result, json_file)
