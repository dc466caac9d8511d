"""Who may see the admin pages: the address, the token, and errors that tell no secret."""

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from pydantic import ValidationError

from tests.unit.admin.test_admin import PROFILE
from weighbridge._core import Core
from weighbridge.admin import access
from weighbridge.admin.access import Access
from weighbridge.admin.server import AdminServer
from weighbridge.admin.status import snapshot
from weighbridge.config.admin import Admin
from weighbridge.config.file import Config
from weighbridge.envoy.runtime import View
from weighbridge.errors import ConfigError
from weighbridge.lab.ports import LOOPBACK, find_free_run
from weighbridge.lab.stack import weighbridge

TOKEN = "correct-horse-battery"
PAGES = ("/", "/status", "/decisions", "/metrics", "/explain", "/nowhere")


async def serve(secured: Access, metrics: str | None = None) -> AsyncIterator[str]:
    core = Core(json.dumps({"profiles": [PROFILE]}))
    address = f"{LOOPBACK}:{find_free_run(2) + 1}"
    server = await AdminServer(
        core, lambda: True, lambda: snapshot(core, Config(), View()), secured
    ).start(address, metrics)
    yield address
    await server.stop()


@pytest.fixture
async def guarded() -> AsyncIterator[str]:
    async for address in serve(Access(TOKEN.encode())):
        yield address


async def status(address: str, path: str, authorization: str | None = None) -> int:
    headers = {} if authorization is None else {"authorization": authorization}
    async with (
        aiohttp.ClientSession(f"http://{address}") as session,
        session.get(path, headers=headers) as response,
    ):
        assert TOKEN not in await response.text()
        return response.status


def test_the_admin_pages_are_on_loopback_by_default() -> None:
    assert Admin().address.startswith("127.0.0.1:")


@pytest.mark.parametrize("address", ["0.0.0.0:9005", "[::]:9005", "10.1.2.3:9005", "host:9005"])
def test_another_address_needs_a_token(address: str) -> None:
    with pytest.raises(ValidationError, match=r"must be a loopback address.*admin\.token_file"):
        Admin(address=address)
    assert Admin(address=address, token_file="token").address == address


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_that_tells_something_asks_for_the_token(guarded: str, path: str) -> None:
    for wrong in (None, "", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN):
        assert await status(guarded, path, wrong) == 401
    assert await status(guarded, path, f"Bearer {TOKEN}") != 401


async def test_metrics_need_no_token_at_an_address_of_their_own_and_nothing_else_is_there() -> None:
    metrics = f"{LOOPBACK}:{find_free_run(2)}"
    async for address in serve(Access(TOKEN.encode()), metrics):
        found = {path: await status(metrics, path) for path in (*PAGES, "/console", "/healthz")}
        assert {path for path, code in found.items() if code != 404} == {"/healthz", "/metrics"}
        assert found["/healthz"] == found["/metrics"] == await status(metrics, "/readyz") == 200
        assert await status(address, "/metrics") == 401


async def answer(address: str, method: str, path: str, **headers: str) -> int:
    """The status of an answer, which is JSON where it is an error."""
    data = b"{}" if method == "POST" else None
    async with (
        aiohttp.ClientSession(f"http://{address}") as session,
        session.request(method, path, headers=headers, data=data) as response,
    ):
        if response.status >= 400:
            assert (await response.json())["error"]
        return response.status


EVERY_PAGE = (
    *(("GET", f"/{path}") for path in ("", "status", "decisions", "slices", "console", "metrics")),
    *(("GET", f"/{path}") for path in ("console/events", "healthz", "readyz", "nowhere")),
    *(("POST", f"/{path}") for path in ("drain?replica=x", "undrain", "explain", "whatif")),
)
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(("method", "path"), EVERY_PAGE)
async def test_no_page_is_for_other_sites(method: str, path: str) -> None:
    metrics = f"{LOOPBACK}:{find_free_run(2)}"
    async for address in serve(Access(), metrics):
        for reached in (address, metrics):
            port = reached.rpartition(":")[2]
            for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "["):
                assert await answer(reached, method, path, **JSON, host=host) == 403
            for origin in ("http://evil.example", "null", f"http://{LOOPBACK}:1", "file://"):
                assert await answer(reached, method, path, **JSON, origin=origin) == 403
            foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
            assert await answer(reached, method, path, **JSON, **foreign) == 403


async def test_a_form_of_another_site_changes_nothing() -> None:
    async for address in serve(Access()):
        for method, path in EVERY_PAGE:
            if method == "POST":
                assert await answer(address, method, path, **{"content-type": "text/plain"}) == 415
                assert await answer(address, method, path) == 415


async def test_own_names_are_answered() -> None:
    async for address in serve(Access(hosts=frozenset({"weighbridge.test"}))):
        port = address.rpartition(":")[2]
        for host in ("localhost", f"LocalHost:{port}", "[::1]:19005", "127.0.0.9", address):
            assert await answer(address, "GET", "/status", host=host) == 200
            assert (
                await answer(address, "GET", "/status", host=host, origin=f"http://{host}") == 200
            )
        assert await answer(address, "GET", "/status", host="Weighbridge.test:80") == 200
        assert await answer(address, "GET", "/status", host="10.0.0.1") == 403
        # Somebody follows a link in another site's page.
        link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert await answer(address, "GET", "/console", **link) == 200


def test_the_address_that_was_reached_is_a_name_in_any_spelling() -> None:
    access_ = Access()
    assert access_.is_named("10.1.2.3:9006", "10.1.2.3")
    assert access_.is_named("10.1.2.3:9006", "::ffff:10.1.2.3")
    assert access_.is_named("[fd00:0:0:0:0:0:0:1]:9006", "fd00::1")
    assert not access_.is_named("10.1.2.4:9006", "10.1.2.3")
    assert not access_.is_named("10.1.2.3", None)


def test_hosts_are_names_without_a_port() -> None:
    assert Admin(hosts=("Weighbridge.Inference.svc.",)).hosts == ("weighbridge.inference.svc",)
    for wrong in ("a:1", "http://a", "", "a/b", "*"):
        with pytest.raises(ValidationError, match="without a port"):
            Admin(hosts=(wrong,))


async def test_whoever_keeps_it_alive_needs_no_token(guarded: str) -> None:
    assert await status(guarded, "/healthz") == 200
    assert await status(guarded, "/readyz") == 200


@pytest.mark.parametrize("content", ["short", "two words are no token", "t\u00f6ken-of-sixteen"])
def test_a_bad_token_is_refused_without_being_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigError, match=r"admin\.token_file: .*must hold 16") as caught:
        access.load(Admin(token_file="token"), tmp_path / "weighbridge.yaml")
    assert content not in str(caught.value)


def test_a_missing_file_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"admin\.token_file: .*absent: No such file"):
        access.load(Admin(token_file="absent"), tmp_path / "weighbridge.yaml")
    admin = Admin.model_validate({"tls": {"certificate": "absent", "key": "absent"}})
    with pytest.raises(ConfigError, match=r"admin\.tls: No such file"):
        access.load(admin, tmp_path / "weighbridge.yaml")


async def test_over_tls_only_known_clients_get_in(tmp_path: Path) -> None:
    for name in ("server", "client", "stranger"):
        await asyncio.to_thread(certify, tmp_path, name)
    tls = {"certificate": "server.pem", "key": "server.key", "client_ca": "client.pem"}
    admin = Admin.model_validate({"tls": tls})
    async for address in serve(access.load(admin, tmp_path / "weighbridge.yaml")):

        async def ask(client: str | None, address: str = address) -> int:
            context = ssl.create_default_context(cafile=tmp_path / "server.pem")
            if client is not None:
                context.load_cert_chain(tmp_path / f"{client}.pem", tmp_path / f"{client}.key")
            connector = aiohttp.TCPConnector(ssl=context)
            async with (
                aiohttp.ClientSession(f"https://{address}", connector=connector) as session,
                session.get("/status") as response,
            ):
                return response.status

        assert await ask("client") == 200
        for other in (None, "stranger"):
            with pytest.raises(aiohttp.ClientError):
                await ask(other)


async def command(*arguments: str) -> tuple[int, str, str]:
    """Runs a command; its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        *weighbridge(*arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_commands_reach_pages_behind_a_private_authority_and_a_token(tmp_path: Path) -> None:
    for name in ("server", "client"):
        await asyncio.to_thread(certify, tmp_path, name)
    (tmp_path / "token").write_text(TOKEN)
    body = tmp_path / "body.json"
    body.write_text('{"model": "m", "prompt": "hello"}')
    tls = {"certificate": "server.pem", "key": "server.key", "client_ca": "client.pem"}
    admin = Admin.model_validate({"tls": tls, "token_file": "token"})
    ca = ("--ca", f"{tmp_path}/server.pem")
    shown = ("--cert", f"{tmp_path}/client.pem", "--key", f"{tmp_path}/client.key")
    token = ("--token-file", f"{tmp_path}/token")
    async for address in serve(access.load(admin, tmp_path / "weighbridge.yaml")):
        known = ("--admin", address, *ca, *shown, *token)
        found = await asyncio.gather(
            command("top", "--rounds", "1", *known),
            command("explain", str(body), *known),
            command("drain", "10.0.0.1:80", *known),
            command("whatif", "m", "--replicas", "2", *known),
            command("drain", "10.0.0.1:80", "--admin", f"https://{address}", *shown, *token),
            command("drain", "10.0.0.1:80", "--admin", address, *ca, *token),
            command("drain", "10.0.0.1:80", "--admin", address, *ca, *shown),
            command("drain", "10.0.0.1:80", *ca, "--key", "x"),
            command("drain", "10.0.0.1:80", "--ca", "/no/such.pem"),
        )
    assert found[0][0] == 0, found[0]
    said = [" ".join((out + err).split()) for _, out, err in found[1:]]
    for text, expected in zip(
        said,
        (
            "no replica of `m` can take the request",
            "404 replica: there is no '10.0.0.1:80'",
            "400 model: there is no profile of m",
            "CERTIFICATE_VERIFY_FAILED",
            f"https://{address}/drain",
            "401 this page needs the admin token",
            "--key: goes with --cert",
            "--ca: /no/such.pem: No such file",
        ),
        strict=True,
    ):
        assert expected in text, said
    assert all(code != 0 and err.count("\n") == 1 for code, _, err in found[1:])


def certify(directory: Path, name: str) -> None:
    """A certificate that vouches for itself."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    files = ["-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.pem"]
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{LOOPBACK}"]
    subprocess.run([*command.split(), *files, *subject], check=True, capture_output=True)
