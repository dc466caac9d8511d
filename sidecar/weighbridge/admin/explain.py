"""`weighbridge explain`: one request weighed and placed by the live code, term by term."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from weighbridge import _core
from weighbridge._core import Core, CoreError
from weighbridge.config import core as cores
from weighbridge.config.file import Config
from weighbridge.config.fleet import Replica
from weighbridge.config.profiles import load_profile, locate, shipped_names
from weighbridge.config.reading import load
from weighbridge.errors import ConfigError, RefusedError
from weighbridge.net.asking import Sidecar, problem_of

# Replicas of the example pool that stands in where no configuration is given (RFC 5737).
EXAMPLE_REPLICAS = 3
ADMIN_SECONDS = 30.0
COST_TERMS = ("prefill_mu", "decode_mu", "image_mu", "audio_mu", "overhead_mu")


class RefusedByCoreError(RefusedError):
    """The core refuses the request, as it would a client's."""

    def __init__(self, refusal: dict[str, Any]) -> None:
        error = refusal.get("error", {})
        super().__init__(f"refused: {error.get('message')} ({error.get('code')})")
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as a client would send it."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def wrapped(self) -> bytes:
        """As JSON with path, headers and body, for a sidecar's /explain."""
        # Headers of one name may repeat: pairs, not an object.
        headers = [list(pair) for pair in self.headers]
        content = {"path": self.path, "headers": headers, "body": self.body.decode()}
        return json.dumps(content, ensure_ascii=False).encode()


def parse(content: bytes) -> Asked:
    """Reads a body, or `{"path", "headers", "body"}`. ConfigError says what is wrong."""
    try:
        path, headers, body = _core.read_asked(content)
    except CoreError as error:
        raise ConfigError(str(error)) from None
    return Asked(path, tuple(headers), body)


def ask(core: Core, asked: Asked) -> dict[str, Any]:
    """Has a core weigh and place a request, charging nothing."""
    try:
        answer = core.explain(asked.path, json.dumps(asked.headers), asked.body)
    except CoreError as error:
        raise RefusedByCoreError(json.loads(str(error))) from None
    explanation: dict[str, Any] = json.loads(answer)
    return explanation


async def ask_sidecar(sidecar: Sidecar, asked: Asked) -> dict[str, Any]:
    """Asks a running sidecar, whose real cache and ledger answer."""
    status, answer = await sidecar.post("/explain", asked.wrapped(), ADMIN_SECONDS)
    if status == 422:
        raise RefusedByCoreError(answer)
    if status != 200:
        raise RefusedError(f"{sidecar.url}/explain: {status} {problem_of(answer)}")
    explanation: dict[str, Any] = answer
    return explanation


def core_for(asked: Asked, config: Path | None) -> Core:
    """A core of the configuration's replicas, or of examples of a shipped profile."""
    if config is not None:
        return cores.build(load(config), config)
    name = shipped_profile(model_of(asked))
    replicas = tuple(
        Replica(endpoint=f"192.0.2.{number}:8000", profile=name)
        for number in range(1, EXAMPLE_REPLICAS + 1)
    )
    return cores.build(Config(profiles=(name,), replicas=replicas), Path("the example pool"))


def model_of(asked: Asked) -> str:
    """The model that a body names; empty where it cannot be told."""
    try:
        body = json.loads(asked.body)
    except ValueError:
        return ""
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else ""


def shipped_profile(model: str) -> str:
    """The first shipped profile of a model; any, where the request names none."""
    known: list[str] = []
    for name in shipped_names():
        profile = load_profile(locate(name, Path.cwd()))
        models = [*profile.get("models", ()), *profile.get("adapters", ())]
        if not model or model in models:
            return name
        known += models[:1]
    raise RefusedError(
        f"no shipped profile is of the model '{model}'; give --config (there are:"
        f" {', '.join(dict.fromkeys(known))})"
    )


def render(found: Mapping[str, Any]) -> Group:
    """An explanation for people."""
    return Group(
        Text(
            f"{found['model']} by {found['profile']}; session {found['session']}"
            f" ({found['session_source']}), key {found['key']}"
        ),
        tokens_table(found),
        cost_table(found["cost"]),
        *cached_table(found["cached"]),
        candidates_table(found),
        Text(
            f"{found['chosen']}: {found['reason'].replace('_', ' ')};"
            f" to retry on: {', '.join(found['fallbacks']) or 'none'}"
        ),
    )


def tokens_table(found: Mapping[str, Any]) -> Table:
    """Prompt tokens by part, and the output predicted."""
    how = "counted by its tokenizer" if found["tokens_from"] == "tokenizer" else "estimated"
    table = figures(f"Tokens, text {how}", "part", "tokens")
    for part, count in found["tokens"].items():
        if part != "total" and count:
            table.add_row(part, f"{count:,.1f}")
    table.add_section()
    table.add_row("prompt", f"{found['tokens']['total']:,}")
    table.add_row("output, predicted", f"{found['output_tokens']:,}")
    return table


def cost_table(cost: Mapping[str, Any]) -> Table:
    """MU by term, and their sum."""
    table = figures("Cost on the replica chosen", "term", "MU")
    for term in COST_TERMS:
        if cost[term]:
            table.add_row(term.removesuffix("_mu"), f"{cost[term]:,.3f}")
    table.add_section()
    table.add_row("all", f"{cost['total_mu']:,.3f}")
    table.caption = (
        f"{cost['cached_tokens']:,} prompt tokens cached; {cost['kv_tokens']:,} KV tokens held"
    )
    return table


def cached_table(cached: list[Mapping[str, Any]]) -> list[Table]:
    """What replicas have cached of the prompt, where any has."""
    if not cached:
        return []
    table = figures("Cached beginnings of the prompt", "replica", "blocks", "tokens")
    for one in cached:
        table.add_row(one["endpoint"], f"{one['blocks']:,}", f"{one['tokens']:,}")
    return [table]


def candidates_table(found: Mapping[str, Any]) -> Table:
    """The replicas looked at, best first."""
    columns = (
        "looked at as",
        "cached tokens",
        "wait ms",
        "prefill ms",
        "first ms",
        "token ms",
        "others ms",
        "score",
        "verdict",
    )
    table = figures("Candidates", "replica", *columns)
    for one in found["candidates"]:
        table.add_row(
            one["endpoint"],
            one["role"],
            f"{one['cached_tokens']:,}",
            f"{one['wait_ms']:,.2f}",
            f"{one['prefill_ms']:,.2f}",
            f"{one['first_ms']:,.2f}",
            f"{one['tpot_ms']:,.2f}",
            f"{one['others_ms']:,.2f}",
            f"{one['score']:,.2f}",
            one["verdict"].replace("_", " "),
            style="bold" if one["endpoint"] == found["chosen"] else None,
        )
    return table


def figures(title: str, first: str, *columns: str) -> Table:
    """A table of names and figures."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table
