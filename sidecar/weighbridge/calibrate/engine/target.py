"""What the experiment needs of a replica, whatever it is reached by."""

from dataclasses import dataclass
from typing import Protocol

from weighbridge.errors import RefusedError


class AskError(RefusedError):
    """The replica refused a request or broke off its answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_refusal(self) -> bool:
        """Whether the same request would be refused again."""
        return 400 <= self.status < 500 and self.status not in {408, 429}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `shared` comes first, so that requests with the same can share its cache."""

    own: str
    output: int
    shared: str = ""
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request went. Times are ms of the replica's clock."""

    start_ms: float
    end_ms: float
    first_ms: float | None
    prompt_tokens: int
    cached_tokens: int | None
    """None where the replica does not tell."""
    output_tokens: int


class Stream(Protocol):
    """A request whose tokens are watched as they come."""

    @property
    def times(self) -> list[float]:
        """When each token came, ms."""

    async def wait(self, tokens: int) -> bool:
        """Waits for so many tokens; False if the stream ended before."""

    async def finish(self) -> Answer:
        """Waits for the end."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """One iteration of the engine, as it recorded it."""

    number: int
    latency_ms: float
    context_requests: int
    context_tokens: int
    generating: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What the replica said of itself since it was last asked."""

    active: int
    """Most requests that were there at once."""
    iterations: tuple[Iteration, ...] = ()
    """Records of iterations, where the replica keeps them."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the replica says of itself; None where it does not."""

    model: str
    kv_tokens: int | None = None
    block_tokens: int | None = None
    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    max_model_len: int | None = None
    has_activity: bool = False
    version: str = ""


class Target(Protocol):
    """One replica."""

    def now(self) -> float:
        """The replica's clock, ms."""

    async def sleep(self, ms: float) -> None:
        """Waits, ms of the replica's clock."""

    async def ask(self, ask: Ask) -> Answer:
        """Sends a request and waits for the whole answer, unstreamed."""

    async def open(self, ask: Ask) -> Stream:
        """Sends a request and returns at once."""

    async def activity(self) -> Activity | None:
        """None when the replica keeps no statistics that we can read."""
