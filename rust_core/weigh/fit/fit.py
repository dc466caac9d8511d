"""Fits the table of tokens to real tokenizers, and counts the corpus with them.

Needs `numpy`, `scipy`, `tiktoken` and the packages that ship the tokenizers, none of which is
needed at run time: `llama-models` (Llama 3), `dashscope` (Qwen), `mistral-common` (Tekken), and the
crate `tiktoken-rs` (o200k), whose folder is given as `--tiktoken-rs`; `--sources` is the folder
that `kinds.py` wrote to. Writes `src/families.bin` and `tests/corpus/tokens.json`.
"""

# ruff: noqa: RUF001

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import made_more
import made_prompts
import numpy as np
import tiktoken
from numpy.typing import NDArray
from scipy import sparse

HERE = Path(__file__).resolve().parent
CRATE = HERE.parent
CORPUS = CRATE / "tests" / "corpus"
KINDS = ("chat", "code", "chinese", "json", "wide")
# Of `families.rs`: rows by classes and the row within runs; rows of runs by mark, by what stands
# around and by length; the row of encoded data; parts of a token.
HASHED, WITHIN, LONGEST, LONGER, PER_TOKEN = 1 << 16, 186, 128, 128, 255
MARKS = "-=*_#~.+/<>^%$&@!?|:;,'`\"\\()[]{} \n\t"
# Characters whose runs are like those of the other kinds of ASCII.
OTHERS = ("0159", "aexzo", "AEXZO", "\x01")
# Longer characters that are drawn with, the commonest first.
DRAWN = (
    "─━═█░▒▓▀▄▬■□▪●○•…—–―　。！？～ー・＊＝┄┅┈╌‐‑‒★☆◆◇▁▂▃、〜－＿哈呵啊ㅋㅎㅠᆞ⠀⣿⠿✦✧→"
    "←⇒♥♪│┌┐└┘├┤┬┴┼║╔╗╚╝▅▆▇✓✗⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏↑↓⇔∀∃∞≈≠≤≥△▲▼◦"
)
RUN_ROWS = (len(MARKS) * 6 + len(OTHERS) + LONGER) * LONGEST
ROWS = HASHED + RUN_ROWS + 1
MOST_OF_ENCODED = 64.0
# Bytes of each kind that are fitted to, and that are judged by.
FIT_BYTES, JUDGED_BYTES = 320_000, 15_000
DRAWN_KINDS = (*made_more.KINDS, *made_prompts.KINDS)
# Kinds whose documents are long and have few rows each: so many times as much is read of them.
LONG = {"rulers": 4, "one_character": 6} | dict.fromkeys(DRAWN_KINDS, 1.5)
# Kinds with less text than this count less.
FULL_BYTES = 50_000
# What made kinds count beside what people wrote.
SHARE_OF_MADE = 0.7
# How strongly a row is drawn to the share of its bytes that begin a token.
PULL = 2e-3
ROUNDS = 150

# Patterns by which the tokenizers split text, as their packages define them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


@dataclass(frozen=True)
class Document:
    """One text of the corpus."""

    kind: str
    side: str
    text: str


def ranks(path: Path) -> dict[bytes, int]:
    lines = (line.split() for line in path.read_bytes().splitlines() if line.strip())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {name} is not installed")
    return Path(spec.submodule_search_locations[0])


def tokenizers(tiktoken_rs: Path) -> dict[str, tiktoken.Encoding]:
    def encoding(name: str, pattern: str, table: dict[bytes, int]) -> tiktoken.Encoding:
        return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=table, special_tokens={})

    tekken = json.loads((package("mistral_common") / "data" / "tekken_240911.json").read_text())
    config = tekken["config"]
    size = config["default_vocab_size"] - config["default_num_special_tokens"]
    tekken_ranks = {
        base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in tekken["vocab"][:size]
    }
    llama = package("llama_models") / "llama3" / "tokenizer.model"
    qwen = package("dashscope") / "resources" / "qwen.tiktoken"
    o200k = tiktoken_rs / "assets" / "o200k_base.tiktoken"
    return {
        "llama3": encoding("llama3", LLAMA3, ranks(llama)),
        "qwen": encoding("qwen", QWEN, ranks(qwen)),
        "o200k": encoding("o200k", O200K, ranks(o200k)),
        "tekken": encoding("tekken", config["pattern"], tekken_ranks),
    }


def documents(sources: Path) -> list[Document]:
    """What is committed, and of the rest as much of each kind as counts."""
    found = []

    def read(path: Path, side: str, kind: str | None = None) -> list[Document]:
        rows = map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1])
        return [Document(kind or row["kind"], side, row["text"]) for row in rows]

    for kind in KINDS:
        for side in ("fit", "held"):
            found += read(CORPUS / f"{kind}.{side}.jsonl", side, kind)
    found += read(CORPUS / "kinds.held.jsonl", "held")
    for name, side, most in (
        ("kinds.fit.jsonl", "fit", FIT_BYTES),
        ("kinds.whole.jsonl", "judged", JUDGED_BYTES),
    ):
        rows = read(sources / name, side)
        random.Random(name).shuffle(rows)  # noqa: S311
        left = {row.kind: int(most * LONG.get(row.kind, 1)) for row in rows}
        for row in rows:
            left[row.kind] -= len(row.text.encode())
            if left[row.kind] >= 0:
                found.append(row)
    return found


def rows_of(documents: list[Document]) -> list[NDArray[np.int64]]:
    """The core's own rows of each document."""
    lines = "\n".join(json.dumps(document.text) for document in documents)
    command = ["cargo", "run", "-q", "--release", "--example", "features"]
    run = subprocess.run(  # noqa: S603
        command, cwd=CRATE, input=lines.encode(), capture_output=True, check=True
    )
    rows, at = [], 0
    for _ in documents:
        length = int.from_bytes(run.stdout[at : at + 4], "little")
        rows.append(
            np.frombuffer(run.stdout, dtype="<u4", count=length, offset=at + 4).astype(np.int64)
        )
        at += 4 + 4 * length
    return rows


def solve(
    counts: sparse.csr_matrix,
    goal: NDArray[np.float64],
    prior: NDArray[np.float64],
    mass: NDArray[np.float64],
    most: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Least squares on the relative error with each row from 0 to its most, drawn to the prior by
    its mass: projected gradients with momentum."""
    scale = np.sqrt(mass + 1e-9)
    scaled = (counts @ sparse.diags(1 / scale)).tocsr()
    transposed = scaled.T.tocsr()
    direction = np.ones(len(scale))
    length = 1.0
    for _ in range(15):
        direction = transposed @ (scaled @ direction)
        length = float(np.linalg.norm(direction))
        direction /= length
    step = 1 / (1.05 * length + PULL)
    start = prior * scale
    at, ahead, momentum = start, start, 1.0
    for _ in range(ROUNDS):
        slope = transposed @ (scaled @ ahead - goal) + PULL * (ahead - start)
        following = np.clip(ahead - step * slope, 0, most * scale)
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = following + (momentum - 1) / faster * (following - at)
        at, momentum = following, faster
    return at / scale


def tokenized(
    encoding: tiktoken.Encoding, texts: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Tokens of each text, and whether a token begins at each byte of all of them."""
    length_of = np.zeros(max(encoding._mergeable_ranks.values()) + 1, dtype=np.int64)
    for token, rank in encoding._mergeable_ranks.items():
        length_of[rank] = len(token)
    tokens, begins = [], []
    for text in texts:
        lengths = length_of[encoding.encode_ordinary(text)]
        tokens.append(len(lengths))
        of_text = np.zeros(lengths.sum(), dtype=bool)
        of_text[np.cumsum(lengths) - lengths] = True
        begins.append(of_text)
    return np.array(tokens, dtype=np.float64), np.concatenate(begins)


def longer(mark: str) -> int:
    """The kind of a longer character's runs, as `families.rs` has it."""
    one, two = mark.encode()[-2:]
    return ((((one & 0x3F) << 6 | (two & 0x3F)) * 815) >> 5) % LONGER


def runs(encoding: tiktoken.Encoding) -> NDArray[np.float64]:
    """Half tokens of runs, beyond those of the first three characters."""

    def tokens(before: str, mark: str, after: str) -> NDArray[np.float64]:
        texts = [before + mark * n + after for n in range(3, LONGEST + 4)]
        counts = np.array([len(encoding.encode_ordinary(text)) for text in texts], dtype=np.float64)
        return np.maximum(0.0, counts[1:] - counts[0])

    rows = []
    for mark in MARKS:
        other = "#" if mark == "/" else "/"
        rows += [
            tokens(before, mark, after)
            for before in ("a", "a ", f"\n{other}")
            for after in ("a", "\na")
        ]
    rows += [np.mean([tokens("", mark, "") for mark in marks], axis=0) for marks in OTHERS]
    for kind in range(LONGER):
        known = [tokens("", mark, "") for mark in DRAWN if longer(mark) == kind]
        rows.append(known[0] if known else np.arange(1.0, LONGEST + 1))
    return np.minimum(np.round(2.0 * np.concatenate(rows)), 255.0) / 2.0


def main() -> None:  # noqa: PLR0915
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiktoken-rs", type=Path, required=True)
    parser.add_argument("--sources", type=Path, required=True)
    options = parser.parse_args()
    encodings = tokenizers(options.tiktoken_rs)
    texts = documents(options.sources)
    rows = rows_of(texts)
    sizes = np.array([len(document.text.encode()) for document in texts])
    kinds = np.array([document.kind for document in texts])
    sides = np.array([document.side for document in texts])
    fitted = np.flatnonzero(sides == "fit")
    importance = np.zeros(len(texts))
    for kind in set(kinds[fitted]):
        of_kind = (kinds == kind) & (sides == "fit")
        full = min(1.0, np.sqrt(sizes[of_kind].sum() / FULL_BYTES))
        share = SHARE_OF_MADE if kind in DRAWN_KINDS else 1.0
        importance[of_kind] = share * full / of_kind.sum()
    where = np.repeat(np.arange(len(texts)), [len(row) for row in rows])
    every = np.concatenate(rows)
    counts = sparse.csr_matrix((np.ones(len(every)), (where, every)), shape=(len(texts), ROWS))
    counts.sum_duplicates()
    at_bytes = every < HASHED
    of_bytes = every[at_bytes]
    most = np.full(ROWS, 1.0)
    most[WITHIN] = 0.0
    most[-1] = MOST_OF_ENCODED
    of_runs = slice(HASHED, HASHED + RUN_ROWS)
    most[of_runs] = 0.0
    free = sparse.diags((most > 0).astype(np.float64))

    table, true = {}, {}
    for family, encoding in encodings.items():
        tokens, begins = tokenized(encoding, [document.text for document in texts])
        weight = (importance / tokens)[where[at_bytes]]
        mass = np.bincount(of_bytes, weight, ROWS)
        prior = (np.bincount(of_bytes, weight * begins, ROWS) + 3e-7) / (mass + 1e-6)
        mass[-1] = (counts[fitted][:, [-1]].T @ (importance / tokens)[fitted])[0]
        prior[HASHED:] = 0.0
        prior[WITHIN] = 0.0
        # Runs are known, and only the rest is fitted.
        known = runs(encoding)
        relative = np.sqrt(importance[fitted])
        scaled = (sparse.diags(relative / tokens[fitted]) @ counts[fitted] @ free).tocsr()
        goal = relative * (1 - (counts[fitted][:, of_runs] @ known) / tokens[fitted])
        parts = np.round(PER_TOKEN * solve(scaled, goal, prior, mass, most))
        parts[of_runs] = PER_TOKEN * known
        table[family], true[family] = parts, tokens
        print(family, flush=True)

    together = np.stack(list(table.values()), axis=1)
    (CRATE / "src" / "families.bin").write_bytes(
        together[:HASHED].astype(np.uint8).tobytes()
        + np.round(2 * together[of_runs] / PER_TOKEN).astype(np.uint8).tobytes()
        + together[-1].astype("<u2").tobytes()
    )
    held = {
        kind: {
            family: [int(n) for n in tokens[(kinds == kind) & (sides == "held")]]
            for family, tokens in true.items()
        }
        for kind in dict.fromkeys(kinds[sides == "held"])
    }
    (CORPUS / "tokens.json").write_text(json.dumps(held, separators=(",", ":")) + "\n")

    print(f"{'median / p95 of the error':30}" + "".join(f"{family:>18}" for family in true))
    for kind in sorted(set(kinds)):
        for side in ("fit", "judged", "held"):
            of_kind = (kinds == kind) & (sides == side)
            if not of_kind.any():
                continue
            cells = []
            for family, tokens in true.items():
                estimates = np.minimum(counts[of_kind] @ table[family] / PER_TOKEN, sizes[of_kind])
                error = np.abs(estimates / tokens[of_kind] - 1)
                cells.append(f"{np.median(error):6.1%} / {np.quantile(error, 0.95):6.1%}")
            print(f"{kind + ' ' + side:30}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
