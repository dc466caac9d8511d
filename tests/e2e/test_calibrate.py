"""Calibration and the doctor as commands, against live emulated replicas with hidden costs."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from weighbridge._core import Emulator

CLOSE = 0.05
MODEL = "hidden"
INTERRUPTED = 130

Engine = dict[str, Any]
Start = Callable[..., str]

USUAL: Engine = {
    "prefill_base_ms": 6.0,
    "prefill_ms_per_token": 0.0165,
    "prefill_ms_per_token2": 0.6e-6,
    "decode_base_ms": 7.0,
    "decode_ms_per_seq": 0.02,
    "decode_ms_per_ktoken": 0.03,
    "image_tile_ms": 9.0,
    "max_batch_size": 64,
}

ENGINES: dict[str, Engine] = {
    "usual": USUAL,
    "short context": USUAL | {"kv_blocks": 1500, "max_seq_len": 8192, "max_num_tokens": 2048},
    "long context": USUAL | {"prefill_ms_per_token2": 2.5e-6, "decode_ms_per_ktoken": 0.06},
    "evicting": USUAL | {"policy": "MAX_UTILIZATION", "kv_blocks": 3000},
    "quantised": {"base": "llama-3.1-8b-fp8-b200"},
    "slow memory": {"base": "llama-3.1-8b-fp8-l40s"},
    "four GPUs": {"base": "llama-3.1-70b-fp8-h100x4"},
    "experts": USUAL | {"decode_base_ms": 4.0, "moe_ms": 8.0, "moe_batch": 12.0},
}


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a replica in this process; answers its URL."""
    running = []

    def begin(engine: Engine, **settings: Any) -> str:
        config = {"models": [MODEL], "profiles": [engine], "speed": 10.0} | settings
        emulator = Emulator(json.dumps(config))
        running.append(emulator)
        return f"http://{emulator.addresses()[0]}"

    yield begin
    for emulator in running:
        emulator.stop()


def command(*arguments: str | Path) -> list[str]:
    """The command line of a `weighbridge` command."""
    return [sys.executable, "-m", "weighbridge", *map(str, arguments)]


def run(*arguments: str | Path, seconds: float = 110) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=seconds, check=False
    )


def true_costs(url_profile: dict[str, Any], engine: Engine, batch: float) -> dict[str, float]:
    """What the profile should hold."""
    base = engine["decode_base_ms"] + 0.3
    costs = {
        "prefill_per_tok": engine["prefill_ms_per_token"],
        "decode_per_tok": base / batch + engine["decode_ms_per_seq"],
        "decode_per_ktok_ctx": engine["decode_ms_per_ktoken"],
    }
    if "image_per_tile" in url_profile["cost"]:
        costs["image_per_tile"] = engine["image_tile_ms"]
    return costs


def heed_interrupts() -> None:
    """Gives Ctrl-C its usual effect on the process that is about to start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_calibration_goes_on_and_finds_the_hidden_costs(
    start: Start, tmp_path: Path
) -> None:
    url = start(USUAL)
    out, state = tmp_path / "hidden.yaml", tmp_path / "hidden.state.jsonl"
    arguments: tuple[str | Path, ...] = (
        *("calibrate", "--target", url, "--out", out, "--time-scale", "10"),
        *("--max-prompt", "6000", "--minutes", "0.6", "--report", tmp_path / "report"),
    )
    with subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A runner in the background of a script has SIGINT ignored, and so would its children.
        preexec_fn=heed_interrupts,  # noqa: PLW1509
    ) as first:
        deadline = time.monotonic() + 60
        while not state.exists() or len(state.read_text().splitlines()) < 6:
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == INTERRUPTED
    assert not out.exists()
    kept = len(state.read_text().splitlines()) - 1

    done = run(*arguments, "--json", tmp_path / "result.json")
    assert f"goes on from {state}: {kept} measurements" in done.stdout
    assert not state.exists()
    profile = yaml.safe_load(out.read_text())
    assert profile["models"] == [MODEL]
    for name, true in true_costs(profile, USUAL, profile["reference_batch"]).items():
        assert profile["cost"][name] == pytest.approx(true, rel=CLOSE), name
    assert profile["kv_tokens"] == 31_037 * 32
    assert profile["max_batch_size"] == 64
    assert 50_000 < profile["capacity_mu_per_min"] < 66_000
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["profile"] == profile
    # Under load the client's own delays count; this machine may have other work.
    for kind, most in (("context", 0.05), ("decode", 0.05), ("under load", 0.25)):
        assert result["held_out"]["by_kind"][kind]["median"] < most, kind
    page = (tmp_path / "report" / "report.html").read_text()
    assert result["verdict"].split(":")[0] in page
    assert page.count("<svg") == 4
    assert "<img" not in page
    assert "<script" not in page
    # 1 says that it must not be trusted, as when this machine is too busy to time anything.
    assert (done.returncode == 0) == (result["trust"] != "not trusted")


async def test_a_busy_replica_is_told_of_and_left_alone(start: Start, tmp_path: Path) -> None:
    url = start(USUAL)
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "busy"}],
        "max_tokens": 4000,
        "ignore_eos": True,
    }
    others = 6

    async def occupy(client: aiohttp.ClientSession) -> None:
        while True:
            async with client.post("/v1/chat/completions", json=body) as response:
                await response.read()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as client:
        busy = [asyncio.create_task(occupy(client)) for _ in range(others)]
        try:
            done = await asyncio.to_thread(
                run,
                "calibrate",
                "--target",
                url,
                "--out",
                tmp_path / "p.yaml",
                "--time-scale",
                "10",
            )
        finally:
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
    assert done.returncode == 1
    assert "requests of others" in " ".join((done.stdout + done.stderr).split())
    assert not (tmp_path / "p.yaml").exists()


def test_the_doctor_finds_a_sound_replica_sound(start: Start, tmp_path: Path) -> None:
    url = start(USUAL)
    profile = tmp_path / "p.yaml"
    profile.write_text(json.dumps({"name": "p", "models": [MODEL]}))
    done = run("doctor", "--replica", url, "--profile", profile, "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert done.returncode == 0, done.stdout
    assert found["healthy"]
    assert {check["state"] for check in found["checks"]} == {"ok"}, found


def test_the_doctor_says_what_to_switch_on(start: Start) -> None:
    without = USUAL | {"block_reuse": False, "chunked_prefill": False, "max_num_tokens": 2048}
    done = run("doctor", "--replica", start(without), "--json", "-")
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert found["block reuse"]["state"] == "missing"
    assert "enable_block_reuse: true" in found["block reuse"]["remedy"]
    assert "enable_chunked_prefill: true" in found["chunked prefill"]["remedy"]
    assert found["statistics"]["state"] == "ok"
    assert "enable_block_reuse: true" in done.stderr


def test_the_doctor_says_that_a_profile_does_not_know_the_model(start: Start) -> None:
    known = ("--profile", "qwen3-32b-fp8-h100")
    done = run("doctor", "--replica", start(USUAL), *known, "--json", "-")
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert found["model names"]["state"] == "missing"
    assert "in the profile's models" in found["model names"]["remedy"]


def test_no_replica_is_one_line() -> None:
    for name in ("doctor --replica", "calibrate --out x.yaml --target"):
        done = run(*name.split(), "http://127.0.0.1:9")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "no replica answers" in done.stderr


@pytest.mark.long
@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_found_within_ten_minutes(name: str, start: Start, tmp_path: Path) -> None:
    url = start(ENGINES[name])
    begin = time.monotonic()
    done = run(
        *("calibrate", "--target", url, "--out", tmp_path / "p.yaml", "--time-scale", "10"),
        *("--minutes", "8", "--json", tmp_path / "result.json"),
        seconds=650,
    )
    spent = time.monotonic() - begin
    result = json.loads((tmp_path / "result.json").read_text())
    print(name, round(spent), "s", result["verdict"])
    assert done.returncode == 0, done.stdout
    assert spent < 600
    assert result["held_out"]["median_error"] < 0.10
    if "base" not in ENGINES[name]:
        costs = true_costs(result["profile"], ENGINES[name], result["profile"]["reference_batch"])
        if "moe_ms" in ENGINES[name]:
            costs["decode_per_tok"] += ENGINES[name]["moe_ms"] / 64
        costs["prefill_per_tok2_e6"] = ENGINES[name]["prefill_ms_per_token2"] * 1e6
        idle = {one["name"] for one in result["coefficients"] if not one["matters"]}
        for term, true in costs.items():
            found = result["profile"]["cost"][term]
            assert term in idle or found == pytest.approx(true, rel=CLOSE), term
