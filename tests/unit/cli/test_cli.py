"""The command: complete help, a version, and one line with an exit code for what goes wrong."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import weighbridge
from weighbridge import __version__
from weighbridge.cli.main import app

COMMANDS = [
    [],
    ["serve"],
    ["emulate"],
    ["up"],
    ["envoy"],
    ["envoy", "render"],
    ["envoy", "validate"],
]


EXAMPLE = Path(weighbridge.__file__).parent / "data" / "examples" / "chat.json"
NEEDED = {
    "whatif": ("m", "--replicas", "1"),
    "drain": ("10.0.0.1:80",),
    "undrain": ("10.0.0.1:80",),
    "explain": (str(EXAMPLE),),
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weighbridge", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_and_each_option(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.returncode == 0
    assert "Usage:" in result.stdout
    options = [line for line in result.stdout.splitlines() if line.startswith("│ --")]
    # An option without an explanation ends after its type.
    assert all(len(line.strip("│ ").split()) > 3 for line in options)


def leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All commands below one, by what is typed."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, one in inner.items():
        yield from leaves(one, f"{path} {name}")


def test_every_command_has_an_example_and_every_option_its_help() -> None:
    found = dict(leaves(typer.main.get_command(app), "weighbridge"))
    assert {"weighbridge status", "weighbridge top", "weighbridge envoy render"} <= set(found)
    for path, command in found.items():
        assert f"Example: {path}" in (command.help or ""), path
        for option in command.params:
            assert getattr(option, "help", None), f"{path} {option.name}"


def test_every_command_that_asks_a_sidecar_reaches_it_in_the_same_ways() -> None:
    found = dict(leaves(typer.main.get_command(app), "weighbridge"))
    ways = {
        name
        for name, command in found.items()
        if {"config", "admin", "token_file", "ca", "cert", "key"}
        <= {option.name for option in command.params}
    }
    asking = ("status", "capacity", "top", "whatif", "drain", "undrain", "explain")
    assert ways == {f"weighbridge {name}" for name in asking}
    for name in asking:
        both = run(name, *NEEDED.get(name, ()), "--config", "a.yaml", "--admin", "127.0.0.1:1")
        assert both.returncode == 2
        assert "give either --config or --admin" in both.stderr
        lost = run(name, *NEEDED.get(name, ()), "--admin", "127.0.0.1:1")
        assert (lost.returncode, lost.stdout) == (1, "")
        [line] = lost.stderr.splitlines()
        assert line.startswith("weighbridge: http://127.0.0.1:1/")


def test_the_version() -> None:
    assert run("--version").stdout.strip() == f"weighbridge {__version__}"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["serve", "-c", "/no/such.yaml"], 2, "weighbridge: /no/such.yaml: No such file"),
        (["envoy", "render", "-c", "/no/such.yaml"], 2, "weighbridge: /no/such.yaml: No such"),
        (["envoy", "validate", "/no/such.yaml"], 1, "weighbridge: /no/such.yaml: envoy refuses"),
        (["up", "--envoy", "/no/envoy"], 1, "weighbridge: Envoy: there is no file /no/envoy"),
        (["up", "--trace", "/no/trace"], 1, "weighbridge: /no/trace: No such file"),
        (["up", "--profile", "none"], 2, "weighbridge: no shipped profile is called 'none'"),
        (["up", "--requests", "100000"], 1, " requests, not 100000"),
        (["emulate", "--profile", "none"], 1, 'weighbridge: unknown profile "none"'),
    ],
)
def test_what_goes_wrong_is_one_line(arguments: list[str], code: int, expected: str) -> None:
    result = run(*arguments)
    assert result.returncode == code
    assert result.stdout == ""
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_configuration_can_be_checked_and_rendered(repository: Path, tmp_path: Path) -> None:
    config = str(repository / "envoy" / "standalone" / "weighbridge.yaml")
    assert run("serve", "-c", config, "--check").stdout == f"{config}: ok\n"
    output = tmp_path / "envoy.json"
    assert (
        run("envoy", "render", "-c", config, "--format", "json", "-o", str(output)).returncode == 0
    )
    assert run("envoy", "validate", str(output)).stdout == f"{output}: ok\n"
    assert run("envoy", "validate", "-c", config).stdout == f"{config}: ok\n"


def test_the_core_s_refusal_names_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "w.yaml"
    (tmp_path / "p.yaml").write_text("name: p\nmodels: [m]\n")
    config.write_text("profiles: [./p.yaml]\n")
    result = run("serve", "-c", str(config), "--check")
    assert result.returncode == 2
    assert result.stderr.startswith(f"weighbridge: {config}: ")
    assert "capacity_mu_per_min" in result.stderr


def test_a_check_tells_the_mistakes_of_all_its_steps_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "weighbridge.yaml"
    path.write_text(
        "profiles: [llama-3.1-8b-fp8-h100]\n"
        "replicas:\n"
        "- {endpoint: 10.0.0.1:8000, profile: llama-3.1-8b-fp8-h10}\n"
        "- {endpoint: 10.0.0.2:8000, profile: llama-3.1-8b-fp8-h100, model: llama-3.1-9b}\n"
        "discovery: {sources: [{kind: inference_pool, pool: p, profile: none-such}]}\n"
        "admin: {token_file: none.txt}\n"
        "listen: {tls: {certificate: none.pem, key: none.key}}\n"
    )
    for command in (["--check"], []):
        result = run("serve", "--config", str(path), *command)
        assert (result.returncode, result.stdout) == (2, "")
        told = [line.removeprefix(f"weighbridge: {path}: ") for line in result.stderr.splitlines()]
        assert [line.split(": ")[0] for line in told] == [
            "replicas[0].profile",
            "replicas[1].model",
            "discovery.sources[0].profile",
            "admin.token_file",
            "listen.tls.certificate",
        ]
        assert "did you mean 'llama-3.1-8b-fp8-h100'?" in told[0]
        assert "did you mean 'llama-3.1-8b'?" in told[1]


def test_a_shipped_profile_that_is_misspelt_is_suggested(tmp_path: Path) -> None:
    path = tmp_path / "weighbridge.yaml"
    path.write_text("profiles: [llama-3.1-8b-fp8-h10, gone.yaml]\n")
    result = run("serve", "--config", str(path), "--check")
    first, second = result.stderr.splitlines()
    assert "profiles[0]: no shipped profile is called 'llama-3.1-8b-fp8-h10'; did you mean" in first
    assert "profiles[1]: " in second
    assert "gone.yaml: No such file" in second
