"""`weighbridge top`: replicas, tenants and decisions in a terminal, once a second."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from weighbridge.admin.reasons import why
from weighbridge.errors import RefusedError
from weighbridge.net.asking import Sidecar
from weighbridge.process.tables import plain_table
from weighbridge.shapes import Decision, Status, Tenant

STATE_STYLES = {
    "healthy": "green",
    "degraded": "yellow",
    "probing": "yellow",
    "draining": "dim",
    "ejected": "red",
}
DECISIONS = 8
TENANTS = 8
BAR = 10


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a sidecar; `at_s` is the time of it."""

    at_s: float
    status: Status
    decisions: Sequence[Decision]


def render(now: Look, before: Look | None) -> Group:
    """The screen, with rates since the look before."""
    return Group(
        Text(headline(now, before)),
        replica_table(now, before),
        tenant_table(now, before),
        decision_table(now.decisions[-DECISIONS:]),
    )


def rate(now: float, then: float | None, seconds: float) -> float | None:
    """Growth a second; None where there is nothing to compare with."""
    if then is None or seconds <= 0:
        return None
    return max(0.0, now - then) / seconds


def shown(value: float | None) -> str:
    """A figure, or nothing."""
    return "" if value is None else f"{value:,.0f}"


def headline(now: Look, before: Look | None) -> str:
    """How much is decided, and what autoscaling asks for."""
    status = now.status
    decided = sum(status["reasons"].values())
    then = None if before is None else sum(before.status["reasons"].values())
    per_s = rate(decided, then, now.at_s - before.at_s if before else 0)
    parts = [f"weighbridge {status['version']}", f"{decided:,} decided"]
    if per_s is not None:
        parts[-1] += f" ({per_s:,.1f}/s)"
    parts += [f"{status['streams']} streams", f"assignment {status['assignment']['number']}"]
    parts += [
        f"{model}: {one['placed_mu']:,.0f}/{one['capacity_mu']:,.0f} MU/min, "
        f"{one['desired_replicas']} desired"
        for model, one in status["autoscaling"].items()
    ]
    if status["observe_only"]:
        parts.append("OBSERVES ONLY")
    return " · ".join(parts)


def bar(share: float) -> str:
    """A share from 0 to 1 as a bar."""
    full = round(max(0.0, min(1.0, share)) * BAR)
    return "█" * full + "░" * (BAR - full)


def replica_table(now: Look, before: Look | None) -> Table:
    """A row a replica."""
    earlier = {} if before is None else given(before)
    seconds = 0.0 if before is None else now.at_s - before.at_s
    table = plain_table("Replicas")
    for title in ("replica", "domain", "health"):
        table.add_column(title, no_wrap=True)
    table.add_column("in flight, s of capacity", no_wrap=True)
    table.add_column("KV memory", no_wrap=True)
    for title in ("requests", "MU/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in now.status["replicas"]:
        load = (one["prefill_mu"] + one["decode_mu"]) / (one["capacity_mu_per_min"] / 60)
        kv = one["kv_tokens"] / max(1, one["kv_capacity_tokens"])
        table.add_row(
            one["endpoint"],
            one["domain"],
            Text(one["state"], style=STATE_STYLES.get(one["state"], "")),
            f"{bar(load / 10)} {load:.1f}",
            f"{bar(kv)} {kv:.0%}",
            f"{one['requests']}",
            shown(rate(one["served"]["mu"], earlier.get(one["endpoint"]), seconds)),
        )
    return table


def given(look: Look) -> dict[str, float]:
    """MU that each replica was given."""
    return {one["endpoint"]: one["served"]["mu"] for one in look.status["replicas"]}


def billed(look: Look) -> dict[tuple[str, str], Tenant]:
    """Each tenant's standing, by model and name."""
    return {
        (model, tenant["tenant"]): tenant
        for model, door in look.status["admission"].items()
        for tenant in door["tenants"]
    }


def tenant_table(now: Look, before: Look | None) -> Table:
    """The tenants that took most."""
    earlier = {} if before is None else billed(before)
    seconds = 0.0 if before is None else now.at_s - before.at_s
    table = plain_table("Tenants")
    table.add_column("tenant", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for title in ("MU/min", "limit", "running", "waiting", "refused"):
        table.add_column(title, justify="right", no_wrap=True)
    rows = sorted(billed(now).items(), key=lambda row: -row[1]["billed_mu"])
    for (model, name), one in rows[:TENANTS]:
        then = earlier.get((model, name))
        per_s = rate(one["billed_mu"], None if then is None else then["billed_mu"], seconds)
        table.add_row(
            name or "(none)",
            model,
            shown(None if per_s is None else per_s * 60),
            shown(one["limit_mu_per_min"]),
            f"{one['running']}",
            f"{one['waiting']}",
            f"{one['shed']}",
        )
    return table


def decision_table(decisions: Sequence[Decision]) -> Table:
    """The latest decisions, the newest first."""
    table = plain_table("Decisions")
    for title in ("session", "replica"):
        table.add_column(title, no_wrap=True)
    table.add_column("MU", justify="right", no_wrap=True)
    table.add_column("why")
    for one in reversed(decisions):
        table.add_row(one["session"][:20], one["replica"], f"{one['mu']:,.0f}", why(one))
    return table


async def look(sidecar: Sidecar) -> Look:
    """One look. RefusedError when the sidecar does not answer."""
    status, decisions = await asyncio.gather(
        sidecar.page("/status"), sidecar.page(f"/decisions?latest={DECISIONS}")
    )
    return Look(asyncio.get_running_loop().time(), status, decisions)


async def run(sidecar: Sidecar, console: Console, interval_s: float, rounds: int | None) -> None:
    """Shows looks until told to stop, or so many `rounds`.

    RefusedError when the first look fails; later ones are waited for.
    """
    before: Look | None = None
    done = 0
    with Live(console=console, auto_refresh=False, screen=rounds is None) as live:
        while True:
            try:
                now = await look(sidecar)
            except RefusedError as error:
                if before is None:
                    raise
                live.update(Text(f"{error}; trying again", style="red"), refresh=True)
            else:
                live.update(render(now, before), refresh=True)
                before = now
            done += 1
            if rounds is not None and done >= rounds:
                return
            await asyncio.sleep(interval_s)
