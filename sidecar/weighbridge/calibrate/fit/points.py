"""What is measured and what came out: plain data that the state file and the report keep."""

from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["context", "decode", "single", "loop", "saturation"]


class Data(BaseModel):
    """Does not change once made; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(Data):
    """One setting of the experiment.

    - `context`: how long requests of this shape hold up a running stream;
    - `decode`: the time between tokens while `batch` requests generate;
    - `single`: one request alone, its first token and its end;
    - `loop`: `batch` clients, each sending its next request when the last is answered;
    - `saturation`: the same with as many clients as fill the replica, reference mix.
    """

    kind: Kind
    prompt: int = 0
    cached: int = 0
    tiles: int = 0
    batch: int = 1
    output: int = 1
    held_out: bool = False

    def label(self) -> str:
        """In a few words, for progress and notes."""
        match self.kind:
            case "context":
                parts = [f"prompt {self.prompt:,}"]
                parts += [f"{self.cached:,} cached"] if self.cached else []
                parts += [f"{self.tiles} images"] if self.tiles else []
                parts += [f"beside {self.batch}"] if self.batch > 1 else []
                return ", ".join(parts)
            case "decode":
                return f"batch {self.batch}, context {self.prompt:,}"
            case "single":
                return f"alone: {self.prompt:,} + {self.output:,} tokens"
            case "loop":
                return f"{self.batch} clients"
            case "saturation":
                return f"saturation, {self.batch} clients"


class Served(Data):
    """One request of a closed loop; times from the loop's start, ms."""

    client: int
    prompt: int
    cached: int
    output: int
    start_ms: float
    end_ms: float


class Measurement(Data):
    """What a point gave. Times are ms of the replica's clock."""

    point: Point
    values: tuple[float, ...] = ()
    """Independent repeats: ms per request (context), per step (decode), or, of requests alone,
    the shortest time to the first token."""
    engine_values: tuple[float, ...] = ()
    """The same by the engine's own iteration records, where there are any."""
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    tiles: float = 0.0
    batch: float = 1.0
    context_tokens: float = 0.0
    """Context of all generating requests together, in the middle of the measurement."""
    engine_context_tokens: float = 0.0
    """The same, over the iterations behind `engine_values`."""
    control_ms: float | None = None
    """Time of one step of a lone short stream in the same minute: what notices drift."""
    engine_control_ms: float | None = None
    """The same by the engine's own clock."""
    engine_first_ms: float | None = None
    """Of lone requests: the iteration that computed the prompt, by the engine's clock."""
    total_ms: float | None = None
    """Of a lone request: to its end."""
    output_tokens: float = 0.0
    served: tuple[Served, ...] = ()
    seconds: float = 0.0
    """Real time spent."""
    tokens: int = 0
    """Prompt and output tokens spent."""
    foreign: int = 0
    """Requests seen in the replica beyond our own."""
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The median of the repeats."""
        return median(self.values)

    def by_engine(self) -> "Measurement":
        """As the engine's own clock has it; itself where that says nothing."""
        if not self.engine_values:
            return self
        return self.model_copy(
            update={
                "values": self.engine_values,
                "context_tokens": self.engine_context_tokens or self.context_tokens,
            }
        )

    def by_streams(self) -> "Measurement":
        """Without what the engine's records say, where they cannot be believed."""
        unsaid = {"engine_values": (), "engine_control_ms": None, "engine_first_ms": None}
        return self.model_copy(update=unsaid)

    @property
    def control(self) -> float | None:
        """The lone step, by the better of the two clocks."""
        return self.control_ms if self.engine_control_ms is None else self.engine_control_ms

    @property
    def error(self) -> float:
        """Standard error of the value, from the spread of the repeats; 0 of a single one."""
        count = len(self.values)
        if count < 2:
            return 0.0
        mean = sum(self.values) / count
        variance = sum((value - mean) ** 2 for value in self.values) / (count - 1)
        return float((variance / count) ** 0.5)
