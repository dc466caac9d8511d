"""Builds the corpus on which token estimates are fitted and judged.

Every source is text that we wrote (`tests/corpus/own`), text that this script makes, or an excerpt
of a permissively licensed package; `tests/corpus/README.md` lists them. The roots are folders where
the packages were unpacked: `python fit/corpus.py --root go=DIR --root rust-doc=DIR ...`.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import math
import random
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parent / "tests" / "corpus"
MIN_BYTES, MAX_BYTES = 400, 6000


@dataclass(frozen=True)
class Source:
    """Files of one package that go to one kind and one side of the corpus."""

    kind: str
    side: str
    name: str
    licence: str
    root: str
    files: tuple[str, ...]
    read: Callable[[Path], str]
    budget: int


def plain(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose_of_html(path: Path) -> str:
    """Paragraphs and list items of a page, without its code blocks."""
    page = re.sub(r"<pre.*?</pre>", "", plain(path), flags=re.S)
    blocks = re.findall(r"<(p|li|h[1-4])[^>]*>(.*?)</\1>", page, flags=re.S)
    texts = (html.unescape(re.sub(r"<code[^>]*>|</code>", "`", body)) for _, body in blocks)
    cleaned = (re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text)).strip() for text in texts)
    return "\n\n".join(text for text in cleaned if len(text) > 60)


def chinese_lines(path: Path) -> str:
    """Lines that are mostly Chinese, links reduced to their text."""
    kept = []
    for source_line in plain(path).splitlines():
        text = re.sub(r"<[^>]+>", "", source_line)
        line = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text).strip()
        chinese = sum("\u4e00" <= char <= "\u9fff" for char in line)
        if chinese >= 8 and chinese >= 0.3 * len(line):
            kept.append(line)
    return "\n".join(kept)


def tools_of_service(path: Path) -> str:
    """Operations of a cloud service as tool definitions, one a line."""
    service = json.loads(plain(path))
    shapes = service["shapes"]

    def text(of: dict[str, object]) -> str:
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", str(of.get("documentation", "")))).strip()

    def schema(name: str, depth: int) -> dict[str, object]:
        shape = shapes[name]
        kinds = {"string": "string", "integer": "integer", "long": "integer", "boolean": "boolean"}
        made: dict[str, object] = {"type": kinds.get(shape["type"], shape["type"])}
        if "enum" in shape:
            made["enum"] = shape["enum"][:8]
        if shape["type"] == "structure":
            made["type"] = "object"
            if depth < 3:
                made["properties"] = {
                    key: schema(member["shape"], depth + 1) | {"description": text(member)[:300]}
                    for key, member in list(shape["members"].items())[:12]
                }
                made["required"] = shape.get("required", [])
        elif shape["type"] == "list":
            made["type"] = "array"
            if depth < 3:
                made["items"] = schema(shape["member"]["shape"], depth + 1)
        return made

    tools = []
    for name, operation in service["operations"].items():
        if "input" not in operation:
            continue
        function = {
            "name": re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(),
            "description": text(operation)[:600],
            "parameters": schema(operation["input"]["shape"], 0),
        }
        tools.append(json.dumps({"type": "function", "function": function}, ensure_ascii=False))
    return "\n".join(tools)


def json_file(path: Path) -> str:
    """A JSON file in one line, as tools return it."""
    return json.dumps(json.loads(plain(path)), ensure_ascii=False)


def made_results(seed: int) -> Iterator[str]:
    """Results of tools, made up: orders, search hits, metrics, log lines."""
    rng = random.Random(seed)  # noqa: S311
    words = plain(CORPUS / "own" / f"chat.{'fit' if seed % 2 else 'held'}.txt").split()

    def sentence() -> str:
        at = rng.randrange(len(words) - 20)
        return " ".join(words[at : at + rng.randint(4, 18)])

    def identifier() -> str:
        return f"{rng.getrandbits(128):032x}"[: rng.choice([8, 12, 24, 32])]

    def when() -> str:
        return (
            f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
            f"T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}Z"
        )

    def order() -> dict[str, object]:
        return {
            "order_id": f"BK{rng.randint(10**7, 10**8 - 1)}",
            "created_at": when(),
            "status": rng.choice(["pending", "shipped", "delivered", "cancelled"]),
            "customer": {"id": rng.randint(1, 99999), "note": sentence()},
            "items": [
                {
                    "sku": identifier()[:8],
                    "qty": rng.randint(1, 9),
                    "price": rng.randint(1, 9999) / 100,
                }
                for _ in range(rng.randint(1, 5))
            ],
            "paid": rng.random() < 0.7,
        }

    def hit() -> dict[str, object]:
        return {
            "title": sentence(),
            "url": f"https://example.com/{identifier()[:8]}/{rng.randint(1, 999)}",
            "score": round(rng.random(), 4),
            "snippet": sentence() + ". " + sentence(),
        }

    def metric() -> dict[str, object]:
        return {
            "metric": rng.choice(["cpu_usage", "http_requests_total", "kv_cache_hit_rate"]),
            "labels": {"pod": f"api-{identifier()[:8]}", "zone": rng.choice("abc")},
            "values": [[1_760_000_000 + 15 * i, f"{rng.random() * 100:.3f}"] for i in range(12)],
        }

    def log() -> dict[str, object]:
        return {
            "ts": when(),
            "level": rng.choice(["INFO", "WARN", "ERROR"]),
            "trace_id": identifier(),
            "msg": sentence(),
            "duration_ms": rng.randint(1, 5000),
        }

    # What is held back has other shapes than what is fitted.
    shapes = (order, metric) if seed % 2 else (hit, log)
    while True:
        one = rng.choice(shapes)
        rows = [one() for _ in range(rng.randint(1, 12))]
        indent = rng.choice([None, None, 2])
        yield json.dumps({"ok": True, "count": len(rows), "results": rows}, indent=indent)


GO = "BSD-3-Clause"
PSF = "PSF-2.0"
EITHER = "MIT OR Apache-2.0"
BOOK = "The Rust Programming Language"
SOURCES = (
    Source(
        "chat", "fit", BOOK, EITHER, "rust-doc", ("book/ch0[1-8]*.html",), prose_of_html, 60_000
    ),
    Source("chat", "held", BOOK, EITHER, "rust-doc", ("book/ch1*.html",), prose_of_html, 30_000),
    Source(
        "chat",
        "held",
        "The Embedded Rust Book",
        EITHER,
        "rust-doc",
        ("embedded-book/**/*.html",),
        prose_of_html,
        30_000,
    ),
    Source(
        "code",
        "fit",
        "Python's standard library",
        PSF,
        "python",
        ("argparse.py", "json/decoder.py", "http/client.py", "csv.py", "shutil.py"),
        plain,
        35_000,
    ),
    Source(
        "code",
        "held",
        "Python's standard library",
        PSF,
        "python",
        ("ipaddress.py", "asyncio/queues.py", "dataclasses.py", "tarfile.py"),
        plain,
        25_000,
    ),
    Source(
        "code",
        "fit",
        "Go's standard library",
        GO,
        "go",
        ("net/http/server.go", "sort/sort.go", "strings/builder.go"),
        plain,
        25_000,
    ),
    Source(
        "code",
        "held",
        "Go's standard library",
        GO,
        "go",
        ("encoding/json/decode.go", "sync/pool.go", "bufio/scan.go"),
        plain,
        20_000,
    ),
    Source(
        "code",
        "fit",
        "serde, tower (crates)",
        EITHER,
        "crates",
        ("serde-1*/src/private/de.rs", "tower-0*/src/**/*.rs"),
        plain,
        25_000,
    ),
    Source(
        "code",
        "held",
        "axum, hyper (crates)",
        "MIT",
        "crates",
        ("axum-0*/src/routing/*.rs", "hyper-1*/src/proto/h1/*.rs"),
        plain,
        25_000,
    ),
    Source("code", "fit", "hexo (npm)", "MIT", "npm", ("hexo/dist/**/*.js",), plain, 20_000),
    Source("code", "held", "docsify (npm)", "MIT", "npm", ("docsify/src/**/*.js",), plain, 20_000),
    Source(
        "chinese",
        "fit",
        "go-zero, ants, kratos (Go modules)",
        "MIT",
        "gomod",
        ("*/go-zero*/**/readme-cn.md", "*/ants/*/README_ZH.md", "*/kratos/*/README_zh.md"),
        chinese_lines,
        40_000,
    ),
    Source(
        "chinese",
        "held",
        "gnet, hertz (Go modules)",
        "Apache-2.0",
        "gomod",
        ("*/gnet/*/README_ZH.md", "*/hertz*/README_cn.md"),
        chinese_lines,
        30_000,
    ),
    Source(
        "chinese",
        "held",
        "sonic-rs (crate)",
        "Apache-2.0",
        "crates",
        ("sonic-rs-*/README_ZH.md", "sonic-rs-*/docs/*zh.md"),
        chinese_lines,
        20_000,
    ),
    Source(
        "json",
        "fit",
        "botocore (PyPI)",
        "Apache-2.0",
        "botocore",
        ("sqs/*/service-2.json", "dynamodb/*/service-2.json"),
        tools_of_service,
        50_000,
    ),
    Source(
        "json",
        "held",
        "botocore (PyPI)",
        "Apache-2.0",
        "botocore",
        ("lambda/2015*/service-2.json", "polly/*/service-2.json"),
        tools_of_service,
        30_000,
    ),
    Source(
        "json", "fit", "hexo, vant (npm)", "MIT", "npm", ("[hv]*/package.json",), json_file, 15_000
    ),
    Source(
        "json",
        "held",
        "docsify, egg (npm)",
        "MIT",
        "npm",
        ("[de]*/package.json",),
        json_file,
        15_000,
    ),
)


def cut(text: str, rng: random.Random) -> Iterator[str]:
    """Cuts a text at line ends into documents whose sizes spread evenly on a log scale."""
    document: list[str] = []
    size = 0
    goal = 0.0
    for whole_line in text.splitlines():
        if not document:
            goal = math.exp(rng.uniform(math.log(MIN_BYTES), math.log(MAX_BYTES)))
        line = whole_line[:MAX_BYTES]
        document.append(line)
        size += len(line.encode()) + 1
        if size >= goal:
            yield "\n".join(document)
            document, size = [], 0
    if size >= MIN_BYTES:
        yield "\n".join(document)


def documents(source: Source, roots: dict[str, Path]) -> Iterator[dict[str, str]]:
    """The documents of a source, up to its budget, drawn evenly from its files."""
    root = roots[source.root]
    paths = sorted({path for pattern in source.files for path in root.glob(pattern)})
    if not paths:
        raise SystemExit(f"{source.name}: nothing under {source.root} matches {source.files}")
    rng = random.Random(f"{source.kind}{source.side}{source.name}")  # noqa: S311
    made = [
        {"source": source.name, "file": path.name, "text": text}
        for path in paths
        for text in cut(source.read(path), rng)
    ]
    rng.shuffle(made)
    left = source.budget
    for document in made:
        left -= len(document["text"].encode())
        if left < 0:
            return
        yield document


def own(kind: str, side: str) -> Iterator[dict[str, str]]:
    """What we wrote, one document a passage."""
    path = CORPUS / "own" / f"{kind}.{side}.txt"
    if path.exists():
        for text in plain(path).split("\n---\n"):
            yield {"source": "own", "file": path.name, "text": text.strip()}


def made(side: str, budget: int) -> Iterator[dict[str, str]]:
    for text in made_results(1 if side == "fit" else 2):
        budget -= len(text.encode())
        if budget < 0:
            return
        yield {"source": "made", "file": "corpus.py", "text": text}


def made_data(side: str) -> Iterator[str]:
    """What no tokenizer has words for: base64, hexadecimal, sequences, identifiers, numbers."""
    rng = random.Random(f"data {side}")  # noqa: S311
    for _ in range(4):
        yield base64.b64encode(rng.randbytes(1500)).decode()
        yield " ".join(rng.randbytes(rng.choice([4, 8, 16, 20, 32])).hex() for _ in range(40))
        yield "".join(rng.choices("acgt", k=800))
        yield "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=800))
        yield "\n".join(str(uuid.UUID(bytes=rng.randbytes(16))) for _ in range(40))
        yield ", ".join(
            f"{rng.random() * 10 ** rng.randint(0, 6):.{rng.randint(0, 6)}f}" for _ in range(200)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", action="append", default=[], metavar="NAME=FOLDER")
    roots = {
        name: Path(path) for name, path in (root.split("=", 1) for root in parser.parse_args().root)
    }
    for kind in ("chat", "code", "chinese", "json", "wide"):
        for side in ("fit", "held"):
            rows = list(own(kind, side))
            for source in SOURCES:
                if (source.kind, source.side) == (kind, side):
                    rows += documents(source, roots)
            if kind == "json":
                rows += made(side, 40_000)
            if kind == "wide":
                rows += (
                    {"source": "made", "file": "corpus.py", "text": text}
                    for text in made_data(side)
                )
            path = CORPUS / f"{kind}.{side}.jsonl"
            with path.open("w", encoding="utf-8") as out:
                for row in rows:
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
            print(f"{path.name}: {len(rows)} documents, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
