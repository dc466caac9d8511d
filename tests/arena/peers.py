"""Who takes part: other routers, each from a virtual environment of its own."""

import sys
from pathlib import Path

from tests.arena.contestants import LOOPBACK, SESSION_HEADER, Contestant, Part, Site
from tests.arena.dynamo import service

# The header by which SMG and SGLang's router keep a session together.
ROUTING_KEY = "x-smg-routing-key"


def peer_routers(environments: Path) -> list[Contestant]:
    """SMG, SGLang's and vLLM's routers, by their cache-aware and best hashing policies; Dynamo's.

    `environments` holds a virtual environment for each distribution, under its name: they bring
    commands of the same name and cannot share one.
    """
    return [
        _smg(environments, "cache_aware", (), "cache_aware"),
        _smg(environments, "prefix_hash", (ROUTING_KEY,), None),
        _smg(environments, "least_load", (), None),
        _sglang(environments, "cache_aware", (), "cache_aware"),
        _sglang(environments, "manual", (ROUTING_KEY,), None),
        _vllm(environments, "cache_aware", (), "cache_aware"),
        _vllm(environments, "consistent_hash", (SESSION_HEADER,), "ring_hash"),
        _dynamo(environments),
    ]


def _common(site: Site) -> list[str]:
    return [
        *("--host", LOOPBACK, "--port", str(site.port)),
        *("--prometheus-port", str(site.admin_port)),
        *("--worker-urls", *(f"http://{endpoint}" for endpoint in site.endpoints)),
    ]


def _health(site: Site) -> list[str]:
    return [f"http://{LOOPBACK}:{site.port}/health"]


def _smg(
    environments: Path, policy: str, headers: tuple[str, ...], simulated: str | None
) -> Contestant:
    def parts(site: Site) -> list[Part]:
        options = ("--policy", policy, "--log-level", "warn", "--disable-tokenizer-autoload")
        return [
            Part("smg", [str(environments / "smg/bin/smg"), "launch", *_common(site), *options])
        ]

    return Contestant(f"smg {policy}", "smg", parts, _health, headers, "smg", simulated)


def _sglang(
    environments: Path, policy: str, headers: tuple[str, ...], simulated: str | None
) -> Contestant:
    def parts(site: Site) -> list[Part]:
        command = [
            str(environments / "sglang-router/bin/python"),
            "-m",
            "sglang_router.launch_router",
        ]
        options = ("--policy", policy, "--log-level", "warn")
        return [Part("sglang", [*command, *_common(site), *options])]

    return Contestant(
        f"sglang {policy}", "sglang", parts, _health, headers, "sglang-router", simulated
    )


def _vllm(
    environments: Path, policy: str, headers: tuple[str, ...], simulated: str | None
) -> Contestant:
    def parts(site: Site) -> list[Part]:
        options = ("--policy", policy, "--log-level", "warning")
        return [
            Part(
                "vllm",
                [str(environments / "vllm-router/bin/vllm-router"), *_common(site), *options],
            )
        ]

    return Contestant(f"vllm {policy}", "vllm", parts, _health, headers, "vllm-router", simulated)


def _dynamo(environments: Path) -> Contestant:
    """Dynamo's cost function decides, by the blocks it has sent where; a forwarder of ours asks."""

    def parts(site: Site) -> list[Part]:
        selector = f"http://{LOOPBACK}:{site.admin_port}"
        command, environment = service(str(environments / "dynamo/bin/python"), site.admin_port)
        forward = [sys.executable, "-m", "tests.arena.dynamo", "--selector", selector]
        options = ["--port", str(site.port), "--model", site.model]
        memory = ["--kv-tokens", str(site.kv_tokens)]
        workers = [f"http://{endpoint}" for endpoint in site.endpoints]
        return [
            Part("dynamo", command, environment, ready=f"{selector}/health"),
            Part("forwarder", [*forward, *options, *memory, *workers], counted=False),
        ]

    return Contestant("dynamo kv", "dynamo", parts, _health, (), "ai-dynamo", "dynamo_kv")
