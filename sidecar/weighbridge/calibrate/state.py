"""The state file: every measurement as it is made, so that an interrupted run goes on."""

import json
from pathlib import Path

from pydantic import ValidationError

from weighbridge.calibrate.fit.points import Data, Measurement
from weighbridge.config.problems import problems
from weighbridge.errors import RefusedError

VERSION = 1


class Header(Data):
    """What a state file was measured on; another replica's measurements do not mix with it."""

    version: int = VERSION
    url: str
    model: str
    time_scale: float
    engine: str = ""
    max_prompt: int
    max_batch: int


class State:
    """Measurements so far, appended to a JSON Lines file as they come."""

    def __init__(self, header: Header, path: Path | None) -> None:
        self.header = header
        self.measured: list[Measurement] = []
        self._path = path

    @property
    def resumed(self) -> bool:
        """Whether there was something to go on from."""
        return bool(self.measured)

    @classmethod
    def open(cls, header: Header, path: Path | None) -> "State":
        """Goes on from the file if there is one. RefusedError if it is of something else."""
        state = cls(header, path)
        if path is None:
            return state
        if path.exists():
            state.measured = read(path, header)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(header.model_dump_json() + "\n", encoding="utf-8")
        return state

    def add(self, measurement: Measurement) -> None:
        """Keeps a measurement, also through a kill."""
        self.measured.append(measurement)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(measurement.model_dump_json(exclude_defaults=True) + "\n")

    def remove(self) -> None:
        """The run is complete: the file has served."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def read(path: Path, header: Header) -> list[Measurement]:
    """The measurements of a state file; the last line may be cut short by a kill."""
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        found = Header.model_validate_json(first)
    except (OSError, ValueError) as error:
        raise RefusedError(f"{path}: is no state file of weighbridge calibrate: {error}") from None
    if found != header:
        differs = ", ".join(
            f"{key} {getattr(found, key)!r} is now {getattr(header, key)!r}"
            for key in Header.model_fields
            if getattr(found, key) != getattr(header, key)
        )
        raise RefusedError(f"{path}: was measured on something else ({differs}): remove it first")
    measured = []
    for number, line in enumerate(lines, 2):
        try:
            measured.append(Measurement.model_validate_json(line))
        except ValidationError as error:
            if number == len(lines) + 1 and not is_json(line):
                break
            wrong = "; ".join(problems(error, Measurement))
            raise RefusedError(f"{path}:{number}: {wrong}") from None
    rewrite(path, found, measured)
    return measured


def rewrite(path: Path, header: Header, measured: list[Measurement]) -> None:
    """Leaves whole lines only, so that what is appended stands on its own."""
    lines = [
        header.model_dump_json(),
        *(m.model_dump_json(exclude_defaults=True) for m in measured),
    ]
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)


def is_json(line: str) -> bool:
    """Whether a line is whole."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
