"""Fits tokens per byte class to real tokenizers, and counts the corpus with them.

Needs `numpy`, `scipy`, `tiktoken` and the packages that ship the tokenizers, none of which is
needed at run time: `llama-models` (Llama 3), `dashscope` (Qwen), `mistral-common` (Tekken), and the
crate `tiktoken-rs` (o200k), whose folder is given as `--tiktoken-rs`. Writes
`src/families.rs` and `tests/corpus/tokens.json`.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiktoken
from numpy.typing import NDArray
from scipy.optimize import nnls

HERE = Path(__file__).resolve().parent
CRATE = HERE.parent
CORPUS = CRATE / "tests" / "corpus"
KINDS = ("chat", "code", "chinese", "json", "wide")
# The four kinds that the bar names count fully; encoded data and other languages keep the
# coefficients sane where those four say nothing.
KIND_WEIGHT = {"chat": 1.0, "code": 1.0, "chinese": 1.0, "json": 1.0, "wide": 0.25}
# How strongly a coefficient is drawn to its prior, in units of one document's relative error.
PRIOR_STRENGTH = 0.01

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


def corpus() -> list[Document]:
    documents = []
    for kind in KINDS:
        for side in ("fit", "held"):
            lines = (CORPUS / f"{kind}.{side}.jsonl").read_text(encoding="utf-8").splitlines()
            documents += [Document(kind, side, json.loads(line)["text"]) for line in lines]
    return documents


def count_classes(documents: list[Document]) -> tuple[list[str], NDArray[np.float64]]:
    """The core's own byte classes of each document."""
    lines = "\n".join(json.dumps(document.text) for document in documents)
    command = ["cargo", "run", "-q", "--release", "--example", "features"]
    run = subprocess.run(  # noqa: S603
        command, cwd=CRATE, input=lines, capture_output=True, text=True, check=True
    )
    names, *counts = (json.loads(line) for line in run.stdout.splitlines())
    return names, np.array(counts, dtype=np.float64)


def fit(
    counts: NDArray[np.float64], tokens: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least squares on the relative error, no coefficient below zero."""
    rows = counts / tokens[:, None] * weights[:, None]
    # A little pull to zero, each coefficient by its own size, keeps classes apart that always
    # occur together.
    pull = np.diag(np.sqrt((rows**2).sum(axis=0)) * PRIOR_STRENGTH)
    solution, _ = nnls(np.vstack([rows, pull]), np.concatenate([weights, np.zeros(len(pull))]))
    return np.asarray(solution)


def errors(estimates: NDArray[np.float64], tokens: NDArray[np.float64]) -> str:
    error = np.abs(estimates / tokens - 1)
    return f"{np.median(error):6.1%} / {np.quantile(error, 0.95):6.1%}"


def rust(names: list[str], table: dict[str, NDArray[np.float64]]) -> str:
    """The source of `src/families.rs`."""
    lines = [
        "//! Tokens per byte class, by tokenizer family. Made by `fit/fit.py`; do not edit.",
        "",
        "/// Tokens per unit of each class, in the order of [`crate::Features::NAMES`].",
        "pub(crate) type Weights = &'static [f64];",
    ]
    for family, weights in table.items():
        lines += ["", f"/// Family `{family}`.", f"pub(crate) const {family.upper()}: Weights = &["]
        lines += [
            f"    {weight:.4f}, // {name}" for name, weight in zip(names, weights, strict=True)
        ]
        lines += ["];"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiktoken-rs", type=Path, required=True)
    encodings = tokenizers(parser.parse_args().tiktoken_rs)
    documents = corpus()
    names, counts = count_classes(documents)
    counts[:, names.index("bytes")] = 0.0  # The sum of all the others explains nothing.
    kinds = np.array([document.kind for document in documents])
    held = np.array([document.side == "held" for document in documents])
    share = {kind: KIND_WEIGHT[kind] / ((kinds == kind) & ~held).sum() for kind in KINDS}
    weights = np.sqrt(np.array([share[kind] for kind in kinds]))

    true = {
        family: np.array([len(encoding.encode_ordinary(d.text)) for d in documents], dtype=float)
        for family, encoding in encodings.items()
    }
    table = {
        family: fit(counts[~held], tokens[~held], weights[~held]) for family, tokens in true.items()
    }
    table["default"] = np.mean(list(table.values()), axis=0)
    (CRATE / "src" / "families.rs").write_text(rust(names, table))

    rows = {
        f"{kind}.{side}": {
            family: [int(n) for n in tokens[(kinds == kind) & (held == (side == "held"))]]
            for family, tokens in true.items()
        }
        for kind in KINDS
        for side in ("fit", "held")
    }
    (CORPUS / "tokens.json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")

    print(f"{'median / p95 of the error':26}" + "".join(f"{family:>18}" for family in true))
    for kind in KINDS:
        for side, which in (("fit", ~held), ("held", held)):
            at = (kinds == kind) & which
            cells = (errors(counts[at] @ table[family], true[family][at]) for family in true)
            print(f"{kind + ' ' + side:26}" + "".join(f"{cell:>18}" for cell in cells))
            if side == "held":
                cells = (errors(counts[at] @ table["default"], true[family][at]) for family in true)
                print(f"{'  by default weights':26}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
