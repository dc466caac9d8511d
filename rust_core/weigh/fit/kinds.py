"""Builds the many kinds of text on which token estimates are fitted and judged.

`python fit/kinds.py SOURCES` reads the packages and repositories that `fit/sources.sh SOURCES` puts
there, as `languages.tsv` and `sources.tsv` name them. It writes `kinds.fit.jsonl` and
`kinds.whole.jsonl` (all that is held out) to SOURCES, too large to be committed, and
`tests/corpus/kinds.held.jsonl`: some ten kilobytes a kind of what is held out and may be copied.
A file is on one side as a whole, unless a source has four files at most.
"""

from __future__ import annotations

import hashlib
import html
import itertools
import json
import math
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import made
import made_more
import made_prompts

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parent / "tests" / "corpus"
MIN_BYTES, MAX_BYTES, MAX_LINE = 400, 6000, 3000
# Of what is committed: bytes and documents a kind, and bytes a document.
KIND_BYTES, KIND_DOCUMENTS, DOCUMENT_BYTES = 12_000, 16, (200, 2000)
# Documents made of each kind, on either side; runs of one character have more shapes than the rest.
MADE = {"fit": 150, "held": 60}
MADE_RUNS = {"fit": 900, "held": 60}


@dataclass
class Text:
    """A document, or a short text that becomes part of one."""

    kind: str
    side: str
    source: str
    licence: str
    file: str
    text: str
    copied: bool

    def bytes(self) -> int:
        return len(self.text.encode())


def plain(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "ignore")


def capitals(path: Path) -> str:
    return plain(path).upper()


def markdown(path: Path) -> str:
    """Prose of Markdown, without front matter, code blocks, comments and addresses."""
    text = re.sub(r"^---\n.*?\n---\n", "", plain(path), flags=re.S)
    for pattern, put in (
        (r"```.*?```", ""),
        (r"<!--.*?-->", ""),
        (r"\]\([^)]*\)", "]"),
        (r"\{[#*%/].*?\}", ""),
        (r"<[^>]+>", ""),
        (r"\n{3,}", "\n\n"),
    ):
        text = re.sub(pattern, put, text, flags=re.S)
    return text.strip()


def markdown_capitals(path: Path) -> str:
    return markdown(path).upper()


def tables(path: Path) -> str:
    return "\n".join(line for line in plain(path).splitlines() if line.strip().startswith("|"))


def page(path: Path) -> str:
    """Paragraphs, items and headings of a page."""
    blocks = re.findall(r"<(p|li|h[1-4])[^>]*>(.*?)</\1>", plain(path), flags=re.S)
    texts = (html.unescape(re.sub(r"<[^>]+>", "", body)) for _, body in blocks)
    return "\n".join(re.sub(r"\s+", " ", text).strip() for text in texts if text.strip())


def strings(path: Path) -> str:
    """The longer strings of a file of translations."""

    def walk(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for one in value.values():
                yield from walk(one)
        elif isinstance(value, str) and len(value) > 30:
            yield re.sub(r"\{[a-z_]+\}", "", value)

    return "\n".join(walk(json.loads(plain(path))))


def gettext(path: Path) -> str:
    """The longer translations of a gettext file."""
    found = re.findall(r'^msgstr(?:\[\d\])? ((?:".*"\n?)+)', plain(path), flags=re.M)
    texts = ("".join(re.findall(r'"(.*)"', one)) for one in found[1:])
    cleaned = (text.replace("\\n", "\n").replace('\\"', '"') for text in texts)
    return "\n".join(text for text in cleaned if len(text) > 25)


def treebank(path: Path) -> str:
    return "\n".join(re.findall(r"^# text = (.*)$", plain(path), flags=re.M))


def examples(path: Path) -> str:
    return "\n".join(re.findall(r'^\s+["\'](.*)["\'],?$', plain(path), flags=re.M))


def in_lines(text: str, length: int) -> str:
    return "\n".join(text[i : i + length] for i in range(0, len(text), length))


def minified(path: Path) -> str:
    return in_lines(plain(path), 1500)


def compact(path: Path) -> str:
    return in_lines(json.dumps(json.loads(plain(path)), ensure_ascii=False), 1500)


READERS: dict[str, Callable[[Path], str]] = {
    read.__name__: read
    for read in (plain, capitals, markdown, markdown_capitals, tables, page, strings, gettext)
} | {read.__name__: read for read in (treebank, examples, minified, compact)}


@dataclass(frozen=True)
class Source:
    """Files that go to one kind: a line of `sources.tsv`."""

    kind: str
    name: str
    licence: str
    copied: bool
    read: str
    budget: int
    files: tuple[str, ...]


def table(name: str) -> list[list[str]]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def sources() -> list[Source]:
    """What `sources.tsv` says; a `{code}` in it stands for each language that has this code."""
    languages = table("languages.tsv")
    columns = languages[0]
    found = []
    for kind, name, licence, copied, read, budget, files in table("sources.tsv"):
        column = next((column for column in columns[1:] if f"{{{column}}}" in files), None)
        of = (
            [(kind, "")]
            if column is None
            else [(row[0], row[columns.index(column)]) for row in languages[1:]]
        )
        found += [
            Source(
                language if kind == "each language" else kind,
                name,
                licence,
                copied == "yes",
                read,
                int(budget),
                tuple(files.replace(f"{{{column}}}", code).split()),
            )
            for language, code in of
            if code != "-"
        ]
    return found


def cut(text: str, rng: random.Random) -> Iterator[str]:
    """Cuts a text at line ends into documents whose sizes spread evenly on a log scale."""
    document: list[str] = []
    size, goal = 0, 0.0
    for whole in text.splitlines():
        for line in in_lines(whole, MAX_LINE).split("\n"):
            if not document:
                goal = math.exp(rng.uniform(math.log(MIN_BYTES), math.log(MAX_BYTES)))
            document.append(line)
            size += len(line.encode()) + 1
            if size >= goal:
                yield "\n".join(document)
                document, size = [], 0
    if size >= MIN_BYTES:
        yield "\n".join(document)


def joined(texts: list[Text], rng: random.Random) -> Iterator[Text]:
    """Documents of texts that are too short to be one."""
    together: list[str] = []
    size = 0
    for text in texts:
        together.append(text.text)
        size += text.bytes()
        if size > 600 * math.exp(rng.uniform(0, 1.5)):
            yield Text(**(asdict(text) | {"text": "\n\n".join(together)}))
            together, size = [], 0
    if size >= MIN_BYTES:
        yield Text(**(asdict(texts[-1]) | {"text": "\n\n".join(together)}))


def documents(source: Source, root: Path) -> Iterator[Text]:
    """A source's documents on both sides, up to its budget, drawn evenly from its files."""
    paths = sorted({path for files in source.files for path in root.glob(files) if path.is_file()})
    if not paths:
        print(f"{source.kind}, {source.name}: nothing matches {source.files}", file=sys.stderr)
    rng = random.Random(f"{source.kind}{source.name}")  # noqa: S311
    whole: dict[str, list[Text]] = {"fit": [], "held": []}
    short: dict[str, list[Text]] = {"fit": [], "held": []}
    for path in paths:
        try:
            text = READERS[source.read](path)
        except json.JSONDecodeError:
            continue  # JSON with comments
        digest = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()
        side = "fit" if digest[0] % 2 else "held"
        pieces = list(cut(text, rng))
        for i, piece in enumerate(pieces or [text]):
            if len(paths) <= 4:
                side = "fit" if 2 * i < len(pieces) else "held"
            said = Text(
                source.kind, side, source.name, source.licence, path.name, piece, source.copied
            )
            (whole if pieces else short)[side].append(said)
    for side, budget in (("fit", source.budget), ("held", source.budget // 2)):
        found = whole[side] + list(joined(short[side], rng))
        rng.shuffle(found)
        left = budget
        for text in found:
            left -= text.bytes()
            if left < 0:
                break
            yield text


def listings(root: Path) -> Iterator[Text]:
    """What `find` prints of each source's folder; every other folder is held out."""
    for at, folder in enumerate(sorted(path for path in root.iterdir() if path.is_dir())):
        rng = random.Random(f"paths {folder.name}")  # noqa: S311
        names = sorted(
            f"{here.removeprefix(str(root))}/{name}"
            for here, _, files in itertools.islice(os.walk(folder), 400)
            for name in files[:40]
        )
        side = "held" if at % 4 == 3 else "fit"
        for text in itertools.islice(cut("\n".join(names), rng), 12):
            yield Text("paths", side, "names of files", "various", folder.name, text, copied=False)


def made_texts(read: list[Text]) -> Iterator[Text]:
    """What `made.py` makes, of the words of what was written for this project."""
    accented = [
        text.text[:1500]
        for text in read
        if text.kind in {"french", "vietnamese", "spanish", "portuguese", "czech", "polish"}
    ]
    rows = (CORPUS / "chat.fit.jsonl").read_text(encoding="utf-8").splitlines()
    prose = " ".join(json.loads(row)["text"] for row in rows).split()
    letters = (re.sub(r"[^a-z]", "", word.lower()) for word in prose)
    words = [word for word in letters if len(word) > 1]
    scripts = {
        "russian", "chinese_simplified", "chinese_traditional", "japanese", "korean", "hindi",
        "arabic", "thai", "hebrew", "greek", "german", "bengali", "persian", "tamil",
    }  # fmt: skip
    of_code = {"python", "rust", "go", "javascript", "typescript", "c_headers", "yaml", "shell"}
    drawn = (*made_more.KINDS, *made_prompts.KINDS)
    for kind in (*made.KINDS, *drawn):
        many = MADE_RUNS if kind in {"rulers", "one_character", *drawn} else MADE
        for side in ("fit", "held"):
            rng = random.Random(f"{kind}{side}")  # noqa: S311
            passages = [t.text[:1500] for t in read if t.kind in scripts and t.side == side]
            code = [t.text[:3000] for t in read if t.kind in of_code and t.side == side]
            maker = made_prompts.Prompts(rng, prose, words, accented, passages, code)
            for _ in range(many[side]):
                text = getattr(maker, kind)()[:8000]
                yield Text(kind, side, "made", "own", "made.py", text, copied=True)


def committed(read: list[Text]) -> Iterator[Text]:
    """Some of what is held out and may be copied, each source in turn."""
    for kind in table("kinds.tsv"):
        rng = random.Random(f"held {kind[0]}")  # noqa: S311
        by_source: dict[str, list[Text]] = {}
        for text in read:
            fits = DOCUMENT_BYTES[0] <= text.bytes() <= DOCUMENT_BYTES[1]
            if text.kind == kind[0] and text.side == "held" and text.copied and fits:
                by_source.setdefault(text.source, []).append(text)
        for texts in by_source.values():
            rng.shuffle(texts)
        turns = (text for turn in itertools.zip_longest(*by_source.values()) for text in turn)
        left = KIND_BYTES
        for text in itertools.islice(filter(None, turns), KIND_DOCUMENTS):
            left -= text.bytes()
            if left < 0:
                break
            yield text


def write(path: Path, texts: list[Text]) -> None:
    with path.open("w", encoding="utf-8") as out:
        for text in texts:
            row = asdict(text)
            del row["side"], row["copied"]
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{path.name}: {len(texts)} documents, {path.stat().st_size} bytes", flush=True)


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    read = [text for source in sources() for text in documents(source, root) if text.text.strip()]
    read += listings(root)
    read += made_texts(read)
    write(root / "kinds.fit.jsonl", [text for text in read if text.side == "fit"])
    write(root / "kinds.whole.jsonl", [text for text in read if text.side == "held"])
    write(CORPUS / "kinds.held.jsonl", list(committed(read)))


if __name__ == "__main__":
    main()
