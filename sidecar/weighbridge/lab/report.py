"""What a run of traffic showed: per replica, by session, and some decisions explained."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from weighbridge.admin.reasons import why
from weighbridge.lab.traffic import Outcome
from weighbridge.process.tables import plain_table
from weighbridge.shapes import Decision, Replica

EXPLAINED = 5
SUMMED = {"requests", "mu", "prompt_tokens", "cached_tokens"}


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def stickiness(outcomes: Iterable[Outcome]) -> float | None:
    """The share of later turns that went to the replica of the turn before; None without any."""
    by_session: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.is_ok:
            by_session[outcome.session].append(outcome)
    stayed = turns = 0
    for session in by_session.values():
        ordered = sorted(session, key=lambda outcome: outcome.turn)
        for before, after in pairwise(ordered):
            turns += 1
            stayed += before.replica == after.replica
    return stayed / turns if turns else None


def replica_rows(
    endpoints: Sequence[str], outcomes: Sequence[Outcome], replicas: Sequence[Replica]
) -> list[dict[str, Any]]:
    """What each replica served: requests, MU, tokens from its cache, time to first token."""
    mu = {replica["endpoint"]: replica["served"]["mu"] for replica in replicas}
    rows = []
    for endpoint in endpoints:
        served = [outcome for outcome in outcomes if outcome.replica == endpoint and outcome.is_ok]
        ttft = [outcome.ttft_ms for outcome in served if outcome.ttft_ms is not None]
        rows.append(
            {
                "endpoint": endpoint,
                "requests": len(served),
                "mu": round(mu.get(endpoint, 0.0), 1),
                "cached_tokens": sum(outcome.cached_tokens for outcome in served),
                "prompt_tokens": sum(outcome.prompt_tokens for outcome in served),
                "ttft_p50_ms": rounded(percentile(ttft, 0.50)),
                "ttft_p95_ms": rounded(percentile(ttft, 0.95)),
            }
        )
    return rows


def rounded(value: float | None) -> float | None:
    """To a tenth."""
    return None if value is None else round(value, 1)


def summary(
    endpoints: Sequence[str],
    outcomes: Sequence[Outcome],
    replicas: Sequence[Replica],
    decisions: Sequence[Decision],
) -> dict[str, Any]:
    """The run as `--json` writes it."""
    errors = Counter(outcome.error for outcome in outcomes if outcome.error is not None)
    share = stickiness(outcomes)
    return {
        "requests": len(outcomes),
        "ok": sum(outcome.is_ok for outcome in outcomes),
        "errors": [{"error": error, "count": count} for error, count in errors.most_common()],
        "replicas": replica_rows(endpoints, outcomes, replicas),
        "sessions": len({outcome.session for outcome in outcomes}),
        "later_turns": sum(outcome.turn > 1 for outcome in outcomes),
        "session_stickiness": None if share is None else round(share, 4),
        "decisions": explained(decisions, outcomes),
    }


def explained(decisions: Sequence[Decision], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Some decisions that show most, in the order in which they were made."""
    of_request = {outcome.request_id: outcome for outcome in outcomes}
    chosen = sorted(telling(decisions), key=lambda one: one["number"])
    return [_explain(decision, of_request.get(decision["request_id"])) for decision in chosen]


def telling(decisions: Sequence[Decision]) -> list[Decision]:
    """One of each reason; then the most cached, the heaviest, the lightest, and the first ones."""
    by_reason = {one["reason"]: one for one in reversed(decisions)}
    ranked = [*by_reason.values()] if len(by_reason) > 1 else []
    if decisions:
        ranked.append(max(decisions, key=lambda one: one["cached_tokens"]))
        ranked.append(max(decisions, key=lambda one: one["mu"]))
        ranked.append(min(decisions, key=lambda one: one["mu"]))
    distinct = {one["number"]: one for one in [*ranked, *decisions]}
    return list(distinct.values())[:EXPLAINED]


def _explain(decision: Decision, outcome: Outcome | None) -> dict[str, Any]:
    return {
        "session": outcome.session if outcome else decision["session"],
        "turn": outcome.turn if outcome else None,
        "mu": round(decision["mu"], 1),
        "replica": decision["replica"],
        "served_by": outcome.replica if outcome else None,
        "reason": decision["reason"],
        "why": why(decision),
        "prompt_tokens": decision["prompt_tokens"],
        "cached_tokens": decision["cached_tokens"],
        "output_tokens": decision["output_tokens"],
        "prefill_mu": round(decision["prefill_mu"], 1),
        "decode_mu": round(decision["decode_mu"], 1),
    }


def render(result: Mapping[str, Any], speed: float) -> Group:
    """The run for people."""
    return Group(
        replica_table(result["replicas"], f"Replicas (emulated, their time runs x{speed:g})"),
        decision_table(result["decisions"]),
        verdict(result),
    )


def replica_table(rows: Sequence[Mapping[str, Any]], name: str) -> Table:
    """One row a replica, and their sum; MU where they are known."""
    table = plain_table(name)
    table.add_column("replica", no_wrap=True)
    for title in ("requests", "MU", "tokens in", "cached", "TTFT p50 ms", "p95"):
        table.add_column(title, justify="right", no_wrap=True)
    if not rows:
        return table
    for row in rows:
        table.add_row(row["endpoint"], *_figures(row))
    known = rows[0].keys() & SUMMED
    total = {key: sum(row[key] for row in rows) for key in known}
    table.add_section()
    table.add_row("all", *_figures({**total, "ttft_p50_ms": None, "ttft_p95_ms": None}))
    return table


def _figures(row: Mapping[str, Any]) -> list[str]:
    share = row["cached_tokens"] / row["prompt_tokens"] if row["prompt_tokens"] else 0.0
    times = [row["ttft_p50_ms"], row["ttft_p95_ms"]]
    return [
        f"{row['requests']:,}",
        f"{row['mu']:,.0f}" if "mu" in row else "",
        f"{row['prompt_tokens']:,}",
        f"{share:.0%}",
        *("" if time is None else f"{time:,.0f}" for time in times),
    ]


def decision_table(decisions: Sequence[Mapping[str, Any]]) -> Table:
    """Some decisions, each with its reason."""
    table = plain_table("Decisions")
    table.add_column("session", no_wrap=True)
    table.add_column("turn", justify="right")
    table.add_column("MU = prefill + decode")
    table.add_column("replica", no_wrap=True)
    table.add_column("why")
    for one in decisions:
        turn = "" if one["turn"] is None else str(one["turn"])
        mu = f"{one['mu']:,.0f} = {one['prefill_mu']:,.0f} + {one['decode_mu']:,.0f}"
        table.add_row(one["session"], turn, mu, one["replica"], one["why"])
    return table


def verdict(result: Mapping[str, Any]) -> Text:
    """Answered how many, stuck how well, failed how."""
    lines = [f"{result['ok']} of {result['requests']} answered, {result['sessions']} sessions"]
    if result["session_stickiness"] is not None:
        lines.append(
            f"{result['session_stickiness']:.1%} of {result['later_turns']} later turns went to the"
            " replica of the turn before"
        )
    lines += [f"{one['count']} x {one['error']}" for one in result["errors"]]
    return Text("\n".join(lines))


def show(result: Mapping[str, Any], speed: float, console: Console) -> None:
    """Prints the run."""
    console.print(render(result, speed))
