"""The command line of `weighbridge calibrate`; what it needs is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from weighbridge.cli.options import JsonOption
from weighbridge.errors import RefusedError


def calibrate(
    *,
    target: Annotated[
        str | None, typer.Option(metavar="URL", help="The replica, such as http://gpu-1:8000.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Its model, if it serves several.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="The profile (of the tables: their folder)."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Writes report.html and report.json there.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The profile's name; else its file's.")] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE",
            help="The model's reference, shipped name or file, whose ms are the MU; left out: "
            "this replica is the reference.",
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.2, max=600, help="Time it may take.")] = 10,
    max_tokens: Annotated[
        int, typer.Option(min=10_000, help="Prompt and output tokens it may spend.")
    ] = 20_000_000,
    max_prompt: Annotated[
        int | None, typer.Option(min=256, help="Longest prompt, tokens; else 16384 if it fits.")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Most requests at once; else 256.")
    ] = None,
    max_num_tokens: Annotated[
        int | None, typer.Option(min=32, help="Tokens of a step, if the replica does not tell.")
    ] = None,
    max_seq_len: Annotated[
        int | None,
        typer.Option(min=1024, help="Its --max_seq_len, if it does not tell; else its KV cache."),
    ] = None,
    kv_tokens: Annotated[
        int | None,
        typer.Option(min=1024, help="Tokens of the KV cache, if the replica does not tell."),
    ] = None,
    gpu: Annotated[str, typer.Option(help="Its GPU, such as h100_sxm; noted only.")] = "",
    gpus: Annotated[int, typer.Option(min=1, help="How many of them; noted only.")] = 1,
    images: Annotated[
        bool, typer.Option(help="Measure images too, if the replica takes them.")
    ] = True,
    time_scale: Annotated[
        float,
        typer.Option(min=0.001, max=1000, help="An emulator's --speed: its time runs so faster."),
    ] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Of all that is random.")] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measurements so far; else beside the profile."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not go on from an interrupted run.")
    ] = False,
    from_aiconfigurator: Annotated[
        bool,
        typer.Option(
            "--from-aiconfigurator",
            help="Make the shipped profiles from NVIDIA's tables instead (an extra dependency).",
        ),
    ] = False,
    tables: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The tables' answers as kept before, in their place."),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE", help="Instead: hold this profile against live traffic (--usage)."
        ),
    ] = None,
    usage: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Usage logs, for --check.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure a replica and make its profile; or check a profile against live traffic.

    Ends with 1 when the profile must not be trusted, or does not hold any more.

    Example: weighbridge calibrate --target http://gpu-1:8000 --out profile.yaml
    """
    chosen = [target is not None, from_aiconfigurator, check is not None]
    if sum(chosen) != 1:
        raise typer.BadParameter("give one of --target, --from-aiconfigurator and --check")
    from rich.console import Console

    try:
        from weighbridge.calibrate import command
    except ImportError as error:
        raise RefusedError(
            f"calibrate needs pip install 'weighbridge[calibrate]' ({error})"
        ) from None

    console = Console(stderr=str(json_file) == "-")
    if check is not None:
        raise typer.Exit(command.check(check, usage or [], json_file, console))
    if out is None:
        raise typer.BadParameter("--out is needed")
    if target is None:
        raise typer.Exit(command.from_tables(out, tables, console))
    options = command.Options(
        url=target.rstrip("/"),
        model=model,
        out=out,
        report=report,
        json_file=json_file,
        name=name,
        reference=reference,
        seconds=minutes * 60,
        tokens=max_tokens,
        max_prompt=max_prompt,
        max_batch=max_batch,
        max_num_tokens=max_num_tokens,
        max_seq_len=max_seq_len,
        kv_tokens=kv_tokens,
        gpu=gpu,
        gpus=gpus,
        images=images,
        time_scale=time_scale,
        seed=seed,
        state=state,
        fresh=fresh,
    )
    raise typer.Exit(command.calibrate(options, console))


def doctor(
    replica: Annotated[
        str, typer.Option(metavar="URL", help="The replica, such as http://gpu-1:8000.")
    ],
    model: Annotated[str | None, typer.Option(help="Its model, if it serves several.")] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Compare its model's names with this profile: a shipped name or a file."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Check a live replica for what the sidecar needs of it, and say what to switch on.

    Sends it some short requests. Ends with 1 when something needed is missing.

    Example: weighbridge doctor --replica http://gpu-1:8000 --profile llama-3.1-8b-fp8-h100
    """
    from rich.console import Console

    from weighbridge.calibrate import doctor as doctors
    from weighbridge.config.profiles import load_profile, locate

    console = Console(stderr=str(json_file) == "-")
    known = None if profile is None else load_profile(locate(profile, Path.cwd()))
    raise typer.Exit(doctors.run(replica, model, known, json_file, console))
