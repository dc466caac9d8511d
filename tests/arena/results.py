"""The arena's results as JSON, written after each run, and their place in the documentation."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.arena.contestants import Contestant
from tests.arena.measure import Figures
from tests.arena.report import page, plot
from tests.arena.setting import Setting
from tests.simulator.pages import write_between
from weighbridge.traces import TraceRequest
from weighbridge.traffic import Outcome

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
        self._answers: dict[int, int] = {}

    def begin(self, requests: Sequence[TraceRequest]) -> None:
        """These will be sent."""
        self._requests = requests

    def add(self, row: Figures, outcomes: Sequence[Outcome]) -> None:
        """One run is over. Whoever routes, a prompt's answer has the same length."""
        self._rows.append(row)
        self._answers |= {one.number: one.output_tokens for one in outcomes if one.is_ok}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".part")
        unfinished.write_text(json.dumps(self.content(), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(self._file)

    def failed(self, text: str) -> None:
        """One run could not be made."""
        self._failures.append(text)

    def is_complete(self, contestants: int) -> bool:
        """Whether every contestant ran in every round."""
        return len(self._rows) == contestants * self._setting.rounds

    def content(self) -> dict[str, Any]:
        """As JSON has it. `answers`: [session, at_s, output tokens] of each request."""
        times = [request.at_seconds for request in self._requests]
        return {
            "setting": self._setting.json(),
            "requests": len(times),
            "offered_rps": round(len(times) / (times[-1] - times[0]), 4),
            "machine": self._machine,
            "versions": self._versions,
            "failures": self._failures,
            "rows": [row.row() for row in self._rows],
            "answers": [
                [one.session, one.at_seconds, self._answers[one.number]]
                for one in self._requests
                if one.number in self._answers
            ],
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
