"""The arena's results as JSON, written after each run, and their place in the documentation."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.arena.contestants import Contestant
from tests.arena.live import Ended
from tests.arena.measure import Figures, limits
from tests.arena.report import page, plot
from tests.arena.setting import Setting
from tests.simulator.pages import write_between
from weighbridge.lab.traces import TraceRequest

DOCS = Path(__file__).resolve().parents[2] / "docs"
KEPT = DOCS / "benchmarks" / "arena.json"
PLOT = "benchmarks/arena.png"


class Results:
    """What has been measured so far; its file is whole after every run."""

    def __init__(self, file: Path, setting: Setting, found_versions: dict[str, str]) -> None:
        self._file = file
        self._setting = setting
        self._versions = found_versions
        self._machine = machine()
        self._requests: Sequence[TraceRequest] = ()
        self._rows: list[Figures] = []
        self._failures: list[str] = []
        self._warnings: list[str] = []
        self._answers: dict[tuple[str, float], int] = {}
        self._sent: dict[str, list[list[Any]]] = {}
        self._goodput: dict[str, list[float]] = {}

    def begin(self, requests: Sequence[TraceRequest]) -> None:
        """These will be sent."""
        self._requests = requests

    def add(self, ended: Ended, requests: Sequence[TraceRequest]) -> list[str]:
        """One run is over; what else than the router may have made it what it is."""
        row = ended.figures
        self._rows.append(row)
        found = limits(row, self._setting.objective)
        self._warnings += [f"round {row.round}: {row.contestant}: {text}" for text in found]
        scale = row.time_scale / self._setting.time_scale
        tokens = {one.number: one.output_tokens for one in ended.outcomes if one.is_ok}
        keys = {one.number: (one.session, round(one.at_seconds * scale, 5)) for one in requests}
        self._answers |= {keys[number]: count for number, count in tokens.items()}
        if ended.sent:
            speed = self._setting.speed
            self._sent[row.contestant] = [
                [*keys[number], round(seconds * speed, 5)] for number, seconds in ended.sent.items()
            ]
        self.save()
        return found

    def found_goodput(self, contestant: str, rps: float) -> None:
        """The highest rate at which a contestant kept the objectives, in one round."""
        self._goodput.setdefault(contestant, []).append(round(rps, 4))
        self.save()

    def save(self) -> None:
        """Writes the file."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".part")
        unfinished.write_text(json.dumps(self.content(), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(self._file)

    def failed(self, text: str) -> None:
        """One run could not be made."""
        self._failures.append(text)

    def is_complete(self, runs: int) -> bool:
        """Whether so many runs were made."""
        return len(self._rows) == runs

    def content(self) -> dict[str, Any]:
        """As JSON has it, `requests` at the setting's own rate.

        `answers`: [session, at_s, output tokens] of each request, at_s in the setting's time.
        `sent`: where clients decided, [session, at_s, when it was sent, s of the replicas].
        """
        times = [request.at_seconds for request in self._requests]
        return {
            "setting": self._setting.json(),
            "requests": len(times),
            "offered_rps": round(len(times) / (times[-1] - times[0]), 4),
            "machine": self._machine,
            "versions": self._versions,
            "failures": self._failures,
            "warnings": self._warnings,
            "rows": [row.row() for row in self._rows],
            "goodput": self._goodput,
            "answers": [[session, at, tokens] for (session, at), tokens in self._answers.items()],
            "sent": self._sent,
        }


def machine() -> dict[str, Any]:
    """What it runs on, and what ran there before it began."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).date().isoformat(),
    }


def versions(chosen: Sequence[Contestant], peers: Path | None) -> dict[str, str]:
    """The version of each product that takes part."""
    names = dict.fromkeys(one.distribution for one in chosen if one.distribution is not None)
    return {name: version(name, peers) for name in names}


def version(name: str, peers: Path | None) -> str:
    """Of a distribution installed here or in the peers' environments."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        stem = name.replace("-", "_")
        roots = [] if peers is None else sorted(peers.iterdir())
        for root in roots:
            for path in root.glob(f"lib/python*/site-packages/{stem}-*.dist-info"):
                return path.name.removeprefix(f"{stem}-").removesuffix(".dist-info")
    return "unknown"


def write_page(content: dict[str, Any]) -> None:
    """The table and the plot into the documentation, the results beside them."""
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    plot(content, DOCS / PLOT)
    write_between(DOCS / "benchmarks.md", "arena", page(content, PLOT))
