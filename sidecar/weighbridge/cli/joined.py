"""`weighbridge status`: the sidecar's view joined with Envoy's, and where they contradict."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from weighbridge.cli.contradictions import (
    Contradiction,
    contradictions,
    of_configuration,
    replica_cluster,
)
from weighbridge.envoy import admin
from weighbridge.envoy.view import EnvoyView, look
from weighbridge.net.asking import Sidecar
from weighbridge.process.tables import plain_table


async def joined(sidecar: Sidecar, envoy_admin: str | None) -> dict[str, Any]:
    """Both views and their contradictions, as `--json` writes them."""
    status = await sidecar.page("/status")
    address = envoy_admin or status["runtime"]["address"]
    try:
        envoy = await look(address)
    except admin.EnvoyAdminError as error:
        found = [
            *of_configuration(status),
            Contradiction("envoy_unreachable", address, str(error)),
        ]
        return result(status, None, found)
    return result(status, envoy, contradictions(status, envoy))


def result(
    status: Mapping[str, Any], envoy: EnvoyView | None, found: list[Contradiction]
) -> dict[str, Any]:
    """What `--json` writes."""
    return {
        "contradictions": [asdict(one) for one in found],
        "observed": observed(status),
        "envoy": None if envoy is None else envoy_facts(status, envoy),
        "sidecar": status,
    }


def envoy_facts(status: Mapping[str, Any], envoy: EnvoyView) -> dict[str, Any]:
    """Envoy's view, as far as people ask for it."""
    cluster = replica_cluster(status, envoy)
    return {
        "version": short_version(envoy.version),
        "state": envoy.state,
        "uptime_seconds": envoy.uptime_s,
        "cluster": cluster,
        "hosts": [asdict(host) for host in envoy.hosts.get(cluster or "", ())],
        "ext_proc": dict(envoy.counters),
        "runtime": dict(envoy.runtime),
    }


def short_version(version: str) -> str:
    """`1.40.0` of `hash/1.40.0/Clean/RELEASE/BoringSSL`."""
    parts = version.split("/")
    return parts[1] if len(parts) > 1 else version


def observed(status: Mapping[str, Any]) -> dict[str, Any]:
    """What observe-only mode has found, with shares."""
    found = status["observed"]
    served = found["served"]
    saved = found["served_mu"] - found["decided_mu"]
    return {
        "observe_only": status["observe_only"],
        **found,
        "elsewhere_share": found["elsewhere"] / served if served else None,
        "saved_mu": saved,
        "saved_share": saved / found["served_mu"] if found["served_mu"] else None,
    }


def render(content: Mapping[str, Any]) -> Group:
    """The whole for people."""
    status, envoy = content["sidecar"], content["envoy"]
    parts: list[Table | Text] = [
        Text(summary(status, envoy)),
        replica_table(status, envoy),
    ]
    if status["runtime"]["set"]:
        parts.append(runtime_table(status["runtime"]["set"]))
    if content["observed"]["decided"]:
        parts.append(Text(observed_text(content["observed"])))
    found = content["contradictions"]
    parts.append(contradiction_table(found) if found else Text("no contradictions", style="green"))
    return Group(*parts)


def summary(status: Mapping[str, Any], envoy: Mapping[str, Any] | None) -> str:
    """Who they are and what they have done."""
    decided = sum(status["reasons"].values())
    refused = sum(status["errors"].values())
    lines = [
        f"sidecar  {status['version']}, {len(status['replicas'])} replicas, assignment "
        f"{status['assignment']['number']}, {decided:,} decided, {refused:,} refused, "
        f"{status['streams']} streams" + (", observes only" if status["observe_only"] else "")
    ]
    if envoy is not None:
        counts = envoy["ext_proc"]
        lines.append(
            f"Envoy    {envoy['version']}, {envoy['state']}, cluster "
            f"{envoy['cluster']}, ext_proc {counts['streams_started']:,} streams, "
            f"{counts['failure_mode_allowed']:,} went on alone, "
            f"{counts['message_timeouts']:,} timeouts"
        )
    for model, signal in status["autoscaling"].items():
        lines.append(
            f"{model}: {signal['placed_mu']:,.0f} of {signal['capacity_mu']:,.0f} MU/min, "
            f"{signal['desired_replicas']} replicas desired ({signal['limited_by']}), "
            f"{signal['open_replicas']} there"
        )
    return "\n".join(lines)


def replica_table(status: Mapping[str, Any], envoy: Mapping[str, Any] | None) -> Table:
    """A row a replica: both views of it."""
    hosts = {} if envoy is None else {host["address"]: host for host in envoy["hosts"]}
    table = plain_table("Replicas")
    table.add_column("replica", no_wrap=True)
    for title in ("domain", "sidecar", "Envoy"):
        table.add_column(title)
    for title in ("in flight", "MU", "KV"):
        table.add_column(title, justify="right")
    for replica in status["replicas"]:
        host = hosts.get(replica["endpoint"])
        says = "?" if host is None else "healthy" if host["healthy"] else host["why"]
        kv = replica["kv_tokens"] / max(1, replica["kv_capacity_tokens"])
        table.add_row(
            replica["endpoint"],
            replica["domain"],
            replica["state"],
            says,
            f"{replica['requests']}",
            f"{replica['prefill_mu'] + replica['decode_mu']:,.0f}",
            f"{kv:.0%}",
        )
    return table


def runtime_table(keys: Mapping[str, Mapping[str, Any]]) -> Table:
    """The runtime keys that are set."""
    table = plain_table("Runtime keys set in Envoy")
    for title in ("key", "value", "configured"):
        table.add_column(title)
    for name, one in keys.items():
        table.add_row(name, str(one["value"]), str(one["configured"]))
    return table


def observed_text(found: Mapping[str, Any]) -> str:
    """What observing has found, in a sentence or two."""
    lines = [f"observed {found['decided']:,} requests, {found['would_refuse']:,} would be refused"]
    if found["served"]:
        lines.append(
            f"{found['elsewhere_share']:.1%} of {found['served']:,} would have gone elsewhere; at "
            f"least {found['saved_mu']:,.0f} MU of {found['served_mu']:,.0f} "
            f"({found['saved_share'] or 0:.1%}) saved"
        )
    return "\n".join(lines)


def contradiction_table(found: list[Mapping[str, str]]) -> Table:
    """The contradictions."""
    table = plain_table(f"Contradictions: {len(found)}")
    for title in ("code", "where", "what"):
        table.add_column(title, style="red" if title == "code" else "")
    for one in found:
        table.add_row(one["code"], one["subject"], one["what"])
    return table
