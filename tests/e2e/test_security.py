"""What nobody can: steer a request, pass for another tenant, read others' words in a log."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.e2e.harness import Reply, Running, Starter, until
from weighbridge.lab.ports import LOOPBACK

KEY = b"the issuer's key, which only it and Envoy's keyring have"
CANARY = "canaryqwzx"
SECRET = f"sk-{CANARY}-secret"


def part(value: dict[str, Any] | bytes) -> str:
    """One part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(key: bytes = KEY, **claims: Any) -> str:
    """A token as the issuer makes it, or as another with another key would."""
    payload = {"iss": "https://issuer.test", "exp": int(time.time()) + 600} | claims
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(payload)}"
    return f"{text}.{part(hmac.digest(key, text.encode(), hashlib.sha256))}"


def by_token(tmp_path: Path) -> dict[str, Any]:
    """The tenant is what the token's claim says."""
    keys = {"keys": [{"kty": "oct", "alg": "HS256", "k": part(KEY)}]}
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(keys))
    jwt = {"issuer": "https://issuer.test", "jwks_file": str(file)}
    claim = {"path": ["claims", "org", "id"], "jwt": jwt}
    return {"tenant_header": "x-tenant-id", "tenant_claim": claim}


async def ask(running: Running, authorization: str | None, **headers: str) -> Reply:
    if authorization is not None:
        headers["authorization"] = f"Bearer {authorization}"
    return await running.post(running.chat(), headers=headers)


async def test_the_tenant_is_the_verified_claim_s_and_nobody_else_s(
    start: Starter, tmp_path: Path
) -> None:
    async with start(replicas=1, sidecar=by_token(tmp_path)) as running:
        gold = {"x-tenant-id": "gold"}
        forged = token(b"another key, as long as one needs", org={"id": "gold"})
        late = token(org={"id": "gold"}, exp=int(time.time()) - 3600)
        stranger = token(org={"id": "gold"}, iss="https://other.test")
        unsigned = f"{part({'alg': 'none'})}.{part({'iss': 'https://issuer.test'})}."
        for wrong in (None, "x", forged, late, stranger, unsigned):
            reply = await ask(running, wrong, **gold)
            assert (reply.status, reply.replica) == (401, ""), reply.body
        acme = await ask(running, token(org={"id": "acme"}), **gold)
        assert (await running.decision_of(acme))["tenant"] == "acme"
        nobody = await ask(running, token(), **gold)
        assert (await running.decision_of(nobody))["tenant"] == ""
        async with running.client.get("/health") as response:
            assert response.status == 200


async def test_replicas_see_neither_the_token_nor_a_forged_tenant(
    start: Starter, tmp_path: Path
) -> None:
    async with start(replicas=1, sidecar=by_token(tmp_path)) as running, echoing(running, token()):
        reply = await ask(running, token(org={"id": "acme"}), **{"x-tenant-id": "gold"})
        seen = json.loads(reply.body)
        assert reply.status == 200
        assert not {"authorization", "x-tenant-id"} & set(seen), seen


async def test_a_tenant_header_that_is_not_configured_is_not_believed(start: Starter) -> None:
    async with start(replicas=1, sidecar={"tenant_header": None}) as running:
        reply = await ask(running, None, **{"x-tenant-id": "gold"})
        assert (await running.decision_of(reply))["tenant"] == ""


async def test_headers_that_steer_are_taken_off_also_without_the_sidecar(
    start: Starter,
) -> None:
    async with start(replicas=3, settled=False) as running, echoing(running):
        first = running.stack.endpoints[0]
        names = [f"x-gateway-destination-endpoint{end}" for end in ("", "-subset", "-served")]
        steering = dict.fromkeys(names, first)
        seen = json.loads((await running.post(running.chat(), headers=steering)).body)
        chosen = seen.pop(names[0])
        decision = (await running.stack.decisions())[-1]
        assert chosen.split(",") == [decision["replica"], *decision["fallbacks"]]
        assert not set(names) & set(seen)
        serve = running.family.running("serve")
        serve.kill()
        await serve.wait()
        replicas = set()
        for _ in range(12):
            seen = json.loads((await running.post(running.chat(), headers=steering)).body)
            assert not set(names) & set(seen)
            replicas.add(seen["host-that-served"])
        assert len(replicas) > 1


@asynccontextmanager
async def echoing(running: Running, authorization: str | None = None) -> AsyncIterator[None]:
    """In the place of the emulated replicas: servers that answer with the headers they got."""
    await running.family.running("emulate").stop(1)

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    async def echo(request: web.Request) -> web.Response:
        await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert request.transport is not None
        port = request.transport.get_extra_info("sockname")[1]
        return web.json_response(headers | {"host-that-served": str(port)})

    runners = []
    for port in running.stack.ports.replicas:
        application = web.Application()
        application.add_routes([web.get("/health", health), web.post("/{path:.*}", echo)])
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, port).start()
        runners.append(runner)

    async def served() -> bool:
        return (await ask(running, authorization)).status == 200

    try:
        await until(served)
        yield
    finally:
        for runner in runners:
            await runner.cleanup()


async def test_a_page_of_another_site_drains_nothing_and_reads_nothing(running: Running) -> None:
    admin = running.stack.admin_url
    port = running.stack.ports.sidecar_admin
    rebound = {"host": f"evil.example:{port}"}
    simple = {"content-type": "text/plain"}
    foreign = {"origin": "http://evil.example", "content-type": "application/json"}
    for endpoint in running.stack.endpoints:
        url = f"{admin}/drain?replica={endpoint}"
        for headers, code in ((simple, 415), (foreign, 403), (simple | rebound, 403)):
            async with running.client.post(url, headers=headers) as response:
                assert response.status == code
    for path in ("/decisions", "/status", "/metrics", "/console", "/console/events"):
        for headers in (rebound, foreign):
            async with running.client.get(admin + path, headers=headers) as response:
                assert response.status == 403
    status = await running.stack.status()
    assert {one["state"] for one in status["replicas"]} == {"healthy"}
    assert (await running.post(running.chat())).status == 200


def saying(running: Running) -> list[dict[str, Any] | bytes]:
    """Bodies that carry the canary wherever a body carries words, right and wrong ones."""
    say = running.chat(f"my name is {CANARY}")
    tool = {"type": "function", "function": {"name": CANARY, "description": CANARY}}
    image = {"type": "image_url", "image_url": {"url": f"https://{CANARY}.test/x.png"}}
    pictured = running.chat(messages=[{"role": "user", "content": [image]}])
    return [
        say,
        say | {"stream": True, "stream_options": {"include_usage": True}},
        say | {"tools": [tool]},
        pictured,
        say | {"model": "unknown"},
        say | {"max_tokens": CANARY},
        f'{{"messages": ["{CANARY}'.encode(),
        f"{CANARY} is no JSON".encode(),
    ]


async def test_no_log_holds_a_prompt_or_a_key_even_at_debug_level(
    start: Starter, tmp_path: Path
) -> None:
    sidecar = {
        "log": {"level": "debug", "format": "json"},
        "usage_log": {"path": str(tmp_path / "usage.jsonl")},
    }
    async with start(replicas=2, sidecar=sidecar) as running:
        headers = {"authorization": f"Bearer {SECRET}", "x-api-key": SECRET}
        for body in saying(running):
            await running.post(body, headers=headers)
        await until((tmp_path / "usage.jsonl").exists)
        stack = running.stack
        pages = [stack.admin_url + path for path in ("/status", "/decisions", "/metrics")]
        for page in pages:
            async with running.client.get(page) as response:
                assert CANARY not in await response.text(), page
        assert len(await stack.decisions()) >= 3
    written = texts(tmp_path)
    assert set(written) >= {"serve.log", "envoy.log", "usage.jsonl"}
    assert not [name for name, text in written.items() if CANARY in text]


def texts(directory: Path) -> dict[str, str]:
    """Everything that was written of a run."""
    files = [*directory.glob("*.log"), *directory.glob("*.jsonl")]
    return {file.name: file.read_text(errors="replace") for file in files}
