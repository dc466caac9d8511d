"""Prompts of random words that come out at a wanted number of tokens."""

import base64
import random
import struct
import zlib

VOCABULARY = tuple(
    "the road is long and every load has its weight we put each one on a scale then send it where "
    "there room to carry more than before while others wait for their turn at gate some are light "
    "but many heavy so count of trucks says little about work that bridge must bear when night "
    "comes they cross with care by lamp slow water stone paper green river market winter summer "
    "morning letter window garden harbour engine copper silver mountain valley forest island "
    "village city street corner number hundred thousand second minute hour day week month year "
    "history music colour sound silence answer question reason measure balance level height depth "
    "width length distance speed pressure heat cold wind rain snow cloud storm sun moon star sky "
    "earth field grass tree leaf root seed flower fruit bread salt sugar butter apple lemon".split()
)
FIRST_GUESS_TOKENS_PER_WORD = 1.1


class Words:
    """Makes texts and learns from usage how many tokens a word and a template have."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._samples: list[tuple[int, int]] = []
        self.per_word = FIRST_GUESS_TOKENS_PER_WORD
        self.template = 0.0

    def count_for(self, tokens: float) -> int:
        """Words that make a prompt of so many tokens, template included."""
        return max(1, round((tokens - self.template) / self.per_word))

    def text(self, tokens: float) -> str:
        """A text that no other is likely to begin with."""
        return " ".join(self._random.choices(VOCABULARY, k=self.count_for(tokens)))

    def chance(self) -> random.Random:
        """The generator behind the texts, for whoever else must choose at random."""
        return self._random

    def learn(self, words: int, tokens: int) -> None:
        """Notes what a prompt of so many words came to. Lengths that differ tell both parts."""
        self._samples.append((words, tokens))
        count = len(self._samples)
        mean_words = sum(w for w, _ in self._samples) / count
        mean_tokens = sum(t for _, t in self._samples) / count
        spread = sum((w - mean_words) ** 2 for w, _ in self._samples)
        if spread > 0:
            both = sum((w - mean_words) * (t - mean_tokens) for w, t in self._samples)
            slope = both / spread
            if slope > 0:
                self.per_word = slope
                self.template = max(0.0, mean_tokens - slope * mean_words)
        elif mean_words > 0:
            self.per_word = mean_tokens / mean_words

    def image(self, side: int) -> str:
        """A data URL of a square PNG of one random colour, unlike any before."""
        colour = bytes(self._random.randrange(256) for _ in range(3))
        return "data:image/png;base64," + base64.b64encode(png(side, colour)).decode()


def png(side: int, colour: bytes) -> bytes:
    """A square PNG of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + colour * side) * side)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
