"""Drives Envoy with no ext_proc server, with one that answers constants, and with each transport.

All of them run side by side and are loaded in turn, round by round, so that whatever else the
machine does falls on all of them alike. A figure is the median of the rounds'.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from weighbridge._core import bench_body
from weighbridge.address import HostPort, UnixPath
from weighbridge.config.listen import Transport
from weighbridge.envoy import binary
from weighbridge.errors import RefusedError
from weighbridge.lab.bench import gateway, wrk
from weighbridge.lab.bench.machine import cpu_us, machine
from weighbridge.lab.bench.profile import MODEL, NAME, profile
from weighbridge.lab.ports import LOOPBACK, find_free_run
from weighbridge.lab.processes import Child, Family
from weighbridge.lab.stack import answers, fetch, weighbridge

REPLICAS = 100
# Bytes of a body, connections, distinct bodies.
CASES = ((4 << 10, 32, 256), (220 << 10, 150, 64))
# Few requests at once, to a real upstream: what one request waits longer.
UPSTREAM_CASE = (4 << 10, 4, 256)
SERVERS: tuple[Transport, ...] = ("native", "grpcio")


@dataclass(frozen=True, slots=True)
class Options:
    """How long, and with which Envoy."""

    seconds: float = 3.0
    rounds: int = 5
    envoy: Path | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """One Envoy, and the sidecar that it asks, if any."""

    name: str
    url: str
    envoy: Child
    sidecar: Child | None = None
    admin: str | None = None


class Ground:
    """Starts all that is measured."""

    def __init__(self, options: Options, directory: Path, family: Family) -> None:
        self._binary = binary.find(options.envoy)
        self._directory = directory
        self._family = family
        self._next_port = find_free_run(32)

    async def start(self) -> tuple[list[Subject], list[Subject]]:
        """Those that answer themselves, and those with an upstream."""
        upstream = self._port()
        admin = self._port()
        await self._envoy("upstream", gateway.answering(upstream, admin), admin)
        sockets = {
            name: UnixPath(str(self._directory / f"{name}.sock")) for name in ("constant", *SERVERS)
        }
        sidecars: dict[str, tuple[Child | None, str | None]] = {"none": (None, None)}
        command = [sys.executable, "-m", "weighbridge.lab.bench.constant", str(sockets["constant"])]
        sidecars["constant"] = (await self._family.start("constant", command), None)
        for name in SERVERS:
            sidecars[name] = await self._serve(name, sockets[name])
        direct: list[Subject] = []
        through: list[Subject] = []
        for who, (sidecar, pages) in sidecars.items():
            for to, subjects in ((None, direct), (upstream, through)):
                if to is not None and who == "constant":
                    continue
                listen, admin = self._port(), self._port()
                text = gateway.gateway(listen, admin, sockets.get(who), to)
                envoy = await self._envoy(f"{who}-{len(subjects)}", text, admin)
                subjects.append(Subject(who, f"http://{listen}", envoy, sidecar, pages))
        return direct, through

    def _port(self) -> HostPort:
        self._next_port += 1
        return HostPort(LOOPBACK, self._next_port - 1)

    async def _serve(self, name: Transport, socket: UnixPath) -> tuple[Child, str]:
        admin = self._port()
        (self._directory / "profile.yaml").write_text(yaml.safe_dump(profile()), encoding="utf-8")
        content = {
            "listen": {"address": str(socket), "transport": name},
            "admin": {"address": str(admin)},
            "profiles": ["./profile.yaml"],
            "replicas": [
                {"endpoint": f"10.0.0.{number}:8000", "profile": NAME}
                for number in range(1, REPLICAS + 1)
            ],
            "health": {"enabled": False},
        }
        file = self._directory / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        child = await self._family.start(name, weighbridge("serve", "--config", str(file)))
        await answers(f"http://{admin}/readyz")
        return child, f"http://{admin}"

    async def _envoy(self, name: str, text: str, admin: HostPort) -> Child:
        file = self._directory / f"envoy-{name}.json"
        file.write_text(text, encoding="utf-8")
        command = binary.command(self._binary, file, concurrency=1)
        child = await self._family.start(f"envoy-{name}", command)
        await answers(f"http://{admin}/ready")
        return child


async def run(options: Options, on_part: Callable[[str], None]) -> dict[str, Any]:
    """All rows; `on_part` is told what is measured next."""
    wrk.find()
    with tempfile.TemporaryDirectory(prefix="weighbridge-") as name:
        directory = Path(name)
        async with Family(directory) as family:
            direct, through = await Ground(options, directory, family).start()
            rows = []
            for case in CASES:
                on_part(f"{case[0] >> 10} KB, {case[1]} connections")
                rows += await compare(direct, case, options, directory)
            on_part("with an upstream")
            upstream = await compare(through, UPSTREAM_CASE, options, directory)
    return {
        "rows": rows,
        "upstream": upstream,
        "ratios": ratios(rows, upstream),
        "machine": machine(),
    }


async def compare(
    subjects: Sequence[Subject], case: tuple[int, int, int], options: Options, directory: Path
) -> list[dict[str, Any]]:
    """One row for each subject."""
    body_bytes, connections, count = case
    bodies = [bench_body(MODEL, session, body_bytes) for session in range(count)]
    load = wrk.prepare(directory / f"load-{body_bytes}-{connections}", bodies, connections)
    found: dict[str, list[dict[str, float]]] = {subject.name: [] for subject in subjects}
    for subject in subjects:
        await wrk.run(subject.url, load, 1)
    for number in range(options.rounds):
        turn = number % len(subjects)
        for subject in (*subjects[turn:], *subjects[:turn]):
            found[subject.name].append(await one_round(subject, load, options.seconds))
    return [
        {"name": name, "body_bytes": body_bytes, "connections": connections} | medians(rounds)
        for name, rounds in found.items()
    ]


async def one_round(subject: Subject, load: wrk.Load, seconds: float) -> dict[str, float]:
    """Figures of one run of wrk, and the CPU time that it cost on each side."""
    weighed = await decisions(subject)
    envoy, sidecar = cpu_us(subject.envoy.pid), sidecar_cpu(subject)
    figures = await wrk.run(subject.url, load, seconds)
    requests = max(1, figures["requests"])
    envoy, sidecar = cpu_us(subject.envoy.pid) - envoy, sidecar_cpu(subject) - sidecar
    if figures["failed"] or not figures["requests"]:
        raise RefusedError(f"{subject.name}: {figures['failed']} of {requests} requests failed")
    if subject.admin is not None and await decisions(subject) - weighed < requests:
        raise RefusedError(f"{subject.name}: requests passed without a decision")
    return {
        "rps": figures["requests"] / figures["seconds"],
        "mean_ms": figures["mean_ms"],
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "sidecar_cpu_us": sidecar / requests,
        "envoy_cpu_us": envoy / requests,
    }


def sidecar_cpu(subject: Subject) -> float:
    """CPU time of the sidecar so far, µs."""
    return 0.0 if subject.sidecar is None else cpu_us(subject.sidecar.pid)


async def decisions(subject: Subject) -> int:
    """Requests that the sidecar has placed so far."""
    if subject.admin is None:
        return 0
    status = await fetch(f"{subject.admin}/status")
    return sum(replica["served"]["requests"] for replica in status["replicas"])


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    keys = rounds[0].keys()
    digits = {"rps": 0, "sidecar_cpu_us": 1, "envoy_cpu_us": 1}
    return {
        key: round(statistics.median(one[key] for one in rounds), digits.get(key, 3))
        for key in keys
    }


def ratios(rows: Sequence[dict[str, Any]], upstream: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What the rows are measured for."""
    small, large = (
        {row["name"]: row for row in rows if row["body_bytes"] == case[0]} for case in CASES
    )
    through = {row["name"]: row for row in upstream}
    added = {
        f"upstream_added_p50_ms_{name}": round(
            through[name]["p50_ms"] - through["none"]["p50_ms"], 3
        )
        for name in SERVERS
    }
    return {
        "native_rps_to_constant": round(small["native"]["rps"] / small["constant"]["rps"], 4),
        "native_cpu_to_grpcio": round(
            small["native"]["sidecar_cpu_us"] / small["grpcio"]["sidecar_cpu_us"], 4
        ),
        "large_rps_native": large["native"]["rps"],
        "large_added_mean_ms_native": round(
            large["native"]["mean_ms"] - large["none"]["mean_ms"], 3
        ),
        **added,
    }


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Rows for people."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("ext_proc")
    for column in ("body", "conns", "req/s", "mean ms", "p50", "p99", "sidecar µs", "Envoy µs"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            row["name"],
            f"{row['body_bytes'] >> 10} KB",
            str(row["connections"]),
            f"{row['rps']:,.0f}",
            *(f"{row[key]:,.2f}" for key in ("mean_ms", "p50_ms", "p99_ms")),
            *(f"{row[key]:,.1f}" for key in ("sidecar_cpu_us", "envoy_cpu_us")),
        )
    return shown
