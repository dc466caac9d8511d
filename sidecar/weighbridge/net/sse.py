"""Server-sent events, and answers that OpenAI's interface streams as such."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

# An event is some hundred bytes; a sender that never ends one is not waited for.
MOST_EVENT_BYTES = 4 << 20


class Events:
    """Takes a stream's bytes apart into the data of its events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of each event that ends in these bytes. ValueError where one is too long."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            text = line.removesuffix(b"\r")
            if text.startswith(b"data:"):
                self._data.append(text[5:].removeprefix(b" "))
            elif not text and self._data:
                whole, self._data = b"\n".join(self._data), []
                yield whole
        if len(self._rest) + sum(len(data) + 1 for data in self._data) > MOST_EVENT_BYTES:
            raise ValueError(f"an event has more than {MOST_EVENT_BYTES:,} bytes")


class Completion:
    """What a streamed answer has told: tokens as they come, usage, and whether it is whole."""

    def __init__(self) -> None:
        self._events = Events()
        self.usage: dict[str, Any] = {}
        self.done = False

    def feed(self, chunk: bytes) -> int:
        """Tokens in these bytes. ValueError where an event is too long."""
        return sum(self._event(data) for data in self._events.feed(chunk))

    def _event(self, data: bytes) -> int:
        if data.strip() == b"[DONE]":
            self.done = True
            return 0
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            return 0
        if not isinstance(event, dict):
            return 0
        usage, choices = event.get("usage"), event.get("choices")
        if isinstance(usage, dict):
            self.usage = usage
        if not isinstance(choices, list):
            return 0
        return sum(carries_token(choice) for choice in choices if isinstance(choice, dict))


def carries_token(choice: Mapping[str, Any]) -> bool:
    """Whether a choice of an event stands for a token: also one whose text is not whole yet."""
    if "text" in choice:
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False
    if delta.get("content") or delta.get("reasoning_content"):
        return True
    return "content" in delta and "role" not in delta


def event(name: str, content: object) -> bytes:
    """One event with JSON as its data."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(content))
