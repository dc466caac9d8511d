"""Reads traces of LLM traffic and gives each request the text that its lengths and blocks say.

Text is made from block ids, so equal ids give equal bytes: prefixes that a trace says are shared
are shared in what is sent, and a run can be repeated byte for byte.
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from weighbridge.errors import RefusedError

BLOCK_TOKENS = 512
# What clients allow is far above what they get.
MAX_TOKENS = 2048
# Plain English takes about one token for each of these words and the space before it.
WORDS = (
    "about after again air also animal answer away back before between body book both boy bring "
    "build call carry change city close come could country cover cross day did differ do down draw "
    "each early earth east end every eye face fact family far farm feel few field find first fish "
    "follow food form found four friend from front game gave give gold good got great green ground "
    "group grow had half hand hard has head hear heat help her here high hold home hot hour house"
).split()


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace: when, who, what is asked and how much may be answered."""

    number: int
    at_seconds: float
    session: str
    turn: int
    messages: tuple[tuple[str, str], ...]
    output_tokens: int
    stream: bool

    def body(self, model: str) -> bytes:
        """The chat completion's body."""
        content: dict[str, Any] = {
            "model": model,
            "messages": [{"role": role, "content": text} for role, text in self.messages],
            "max_tokens": max(MAX_TOKENS, self.output_tokens),
        }
        if self.stream:
            content |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(content, ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a trace in Mooncake's form."""

    at_seconds: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


@dataclass(slots=True)
class Session:
    """A conversation as it grows: what was said so far, and in how many tokens."""

    name: str
    turns: int
    messages: tuple[tuple[str, str], ...]
    tokens: int
    answered: int


@lru_cache(maxsize=4096)
def block_text(identity: int, tokens: int = BLOCK_TOKENS) -> str:
    """The text of a block: the same words for the same identity, a word a token."""
    return " ".join(random.Random(identity).choices(WORDS, k=tokens))  # noqa: S311


def text_of(blocks: Sequence[int], tokens: int) -> str:
    """The text of some blocks, cut to so many tokens; the last block is drawn out if need be."""
    if not blocks or tokens <= 0:
        return ""
    parts = [block_text(block) for block in blocks[: -(-tokens // BLOCK_TOKENS)]]
    rest = tokens - BLOCK_TOKENS * (len(parts) - 1)
    parts[-1] = block_text(blocks[len(parts) - 1], rest)
    return " ".join(parts)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file in Mooncake's form, one JSON object a line."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _row(path, number, line)
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from None


def _row(path: Path, number: int, line: str) -> Row:
    try:
        content = json.loads(line)
        return Row(
            at_seconds=float(content["timestamp"]) / 1000,
            input_tokens=int(content["input_length"]),
            output_tokens=max(1, int(content["output_length"])),
            blocks=tuple(int(block) for block in content["hash_ids"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise RefusedError(f"{path}:{number}: no request of a trace: {error!r}") from None


def requests_of(rows: Iterable[Row]) -> Iterator[TraceRequest]:
    """Requests with their text. A row whose blocks go on where an earlier row's ended is its next
    turn; the first block, which all rows of a service share, is the system prompt.
    """
    sessions: dict[tuple[int, ...], Session] = {}
    count = 0
    for number, row in enumerate(rows):
        session = _continued(sessions, row)
        if session is None:
            count += 1
            session = Session(f"s{count}", 0, (), 0, 0)
        session = _next_turn(session, row)
        if len(row.blocks) > 2:
            # The last block is not complete: the next turn's block there is another.
            sessions[row.blocks[:-1]] = session
        yield TraceRequest(
            number=number,
            at_seconds=row.at_seconds,
            session=session.name,
            turn=session.turns,
            messages=session.messages,
            output_tokens=row.output_tokens,
            # Three in four are streamed, whatever the session.
            stream=number % 4 != 3,
        )


def _continued(sessions: dict[tuple[int, ...], Session], row: Row) -> Session | None:
    for length in range(len(row.blocks) - 1, 1, -1):
        session = sessions.get(row.blocks[:length])
        if session is not None and row.input_tokens >= session.tokens:
            return session
    return None


def _next_turn(session: Session, row: Row) -> Session:
    messages = session.messages
    if not messages:
        system = min(BLOCK_TOKENS, row.input_tokens) if len(row.blocks) > 1 else 0
        if system:
            messages = (("system", text_of(row.blocks[:1], system)),)
        user = text_of(row.blocks[1:] if system else row.blocks, row.input_tokens - system)
        messages = (*messages, ("user", user))
    elif row.input_tokens > session.tokens:  # else the same prompt was sent again
        added = row.input_tokens - session.tokens
        reply = min(session.answered, added - 1)
        fresh = row.blocks[session.tokens // BLOCK_TOKENS :]
        said = text_of(fresh, added).split(" ")
        messages = (
            *messages,
            ("assistant", " ".join(said[:reply])),
            ("user", " ".join(said[reply:])),
        )
    return Session(
        name=session.name,
        turns=session.turns + 1,
        messages=messages,
        tokens=row.input_tokens,
        answered=row.output_tokens,
    )


def shipped_trace() -> Path:
    """The small trace that the package carries."""
    return Path(str(resources.files("weighbridge"))) / "data" / "conversation.jsonl"


def find_trace(given: Path | None, checkout: Path | None) -> Path:
    """The trace to replay: the given one, that which lies beside a checkout, or the shipped one."""
    if given is not None:
        return given
    if checkout is not None:
        beside = checkout.parent / "shared" / "traces" / "mooncake_conversation.jsonl"
        if beside.is_file():
            return beside
    return shipped_trace()
