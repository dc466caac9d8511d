"""TLS between Envoy and the sidecar: mutual, refused where it should be, renewed while serving."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.e2e.harness import Running, Starter, until
from weighbridge.address import HostPort
from weighbridge.envoy.names import EXT_PROC_SERVICE
from weighbridge.lab.ports import LOOPBACK, find_free_run

NAME = "weighbridge.test"
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def authority() -> trustme.CA:
    """Who signs everybody's certificates."""
    return trustme.CA()


def write(directory: Path, authority: trustme.CA) -> None:
    """Certificates of the sidecar and of Envoy, and the authority's own."""
    authority.cert_pem.write_to_path(directory / "ca.pem")
    for name, identity in (("sidecar", NAME), ("envoy", "envoy.test")):
        issued = authority.issue_cert(identity)
        issued.private_key_pem.write_to_path(directory / f"{name}.key")
        (directory / f"{name}.pem").write_bytes(
            b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        )


def mutual(directory: Path) -> dict[str, Any]:
    """The configuration's sections for mTLS."""
    return {
        "listen": {
            "tls": {"certificate": "sidecar.pem", "key": "sidecar.key", "client_ca": "ca.pem"}
        },
        "envoy": {
            "sidecar_tls": {
                "ca": str(directory / "ca.pem"),
                "server_name": NAME,
                "certificate": str(directory / "envoy.pem"),
                "key": str(directory / "envoy.key"),
            }
        },
    }


def channel(address: str, directory: Path, own: bool) -> grpc.aio.Channel:
    """A client that trusts the authority, with a certificate of its own or without."""
    pair = (directory / "envoy.key", directory / "envoy.pem")
    key, chain = (path.read_bytes() for path in pair) if own else (None, None)
    credentials = grpc.ssl_channel_credentials((directory / "ca.pem").read_bytes(), key, chain)
    return grpc.aio.secure_channel(
        address,
        credentials,
        options=[("grpc.ssl_target_name_override", NAME)],
    )


async def health(
    running: Running, directory: Path, own: bool = True, address: str | None = None
) -> int:
    """What the health service answers to such a client."""
    async with channel(address or running.stack.config.listen.address, directory, own) as to:
        stub = health_pb2_grpc.HealthStub(to)
        request = health_pb2.HealthCheckRequest(service=EXT_PROC_SERVICE)
        status: int = (await stub.Check(request, timeout=5)).status
        return status


async def test_envoy_reaches_the_sidecar_by_mtls_and_nobody_without_a_certificate_does(
    start: Starter, tmp_path: Path, authority: trustme.CA
) -> None:
    write(tmp_path, authority)
    # The list of replicas comes by TLS, too; without it Envoy has none.
    lists = HostPort(LOOPBACK, find_free_run(16) + 15)
    ads = {"discovery": {"ads": {"address": str(lists)}}}
    async with start(sidecar=mutual(tmp_path) | ads) as running:
        replies = [await running.post(running.chat(f"{n}")) for n in range(3)]
        assert [reply.status for reply in replies] == [200] * 3
        assert len(await running.stack.decisions()) == 3
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(running, tmp_path, own=False)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        sessions = (await running.stack.status())["discovery"]["envoys"]
        assert [one["node"] for one in sessions] == ["weighbridge"]
        for own, code in ((True, "UNIMPLEMENTED"), (False, "UNAVAILABLE")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health(running, tmp_path, own, str(lists))
            assert caught.value.code() == grpc.StatusCode[code], "health is served elsewhere"
        plain = grpc.aio.insecure_channel(running.stack.config.listen.address)
        async with plain as to:
            with pytest.raises(grpc.aio.AioRpcError):
                await health_pb2_grpc.HealthStub(to).Check(
                    health_pb2.HealthCheckRequest(), timeout=5
                )


async def test_new_certificates_are_used_without_a_restart(
    start: Starter, tmp_path: Path, authority: trustme.CA
) -> None:
    write(tmp_path, authority)
    async with start(sidecar=mutual(tmp_path)) as running:
        host, port = running.stack.config.listen.address.split(":")
        # A rotation that is half done: the certificate is new, its key is not.
        issued = authority.issue_cert(NAME)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        (tmp_path / "sidecar.pem").write_bytes(chain)
        await asyncio.sleep(1.5)
        assert (await running.post(running.chat("between"))).status == 200
        issued.private_key_pem.write_to_path(tmp_path / "sidecar.key")
        wanted = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

        async def is_shown() -> bool:
            return await asyncio.to_thread(shown, host, int(port), tmp_path) == wanted

        await until(is_shown)
        assert await health(running, tmp_path) == SERVING
        assert (await running.post(running.chat("after"))).status == 200


def shown(host: str, port: int, directory: Path) -> bytes | None:
    """The certificate that the server shows, in DER."""
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    context.load_cert_chain(directory / "envoy.pem", directory / "envoy.key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=NAME) as secured,
    ):
        return secured.getpeercert(binary_form=True)


async def test_reflection_names_the_services_and_describes_ext_proc(running: Running) -> None:
    async with grpc.aio.insecure_channel(running.stack.config.listen.address) as to:
        stub = reflection_pb2_grpc.ServerReflectionStub(to)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=EXT_PROC_SERVICE),
        ]
        services, described = [reply async for reply in stub.ServerReflectionInfo(iter(asked))]
    names = {service.name for service in services.list_services_response.service}
    assert {EXT_PROC_SERVICE, "grpc.health.v1.Health"} <= names
    files = b"".join(described.file_descriptor_response.file_descriptor_proto)
    assert b"external_processor.proto" in files


async def test_a_connection_may_open_so_many_streams_and_the_next_waits(start: Starter) -> None:
    async with (
        start(sidecar={"listen": {"max_streams": 2}}) as running,
        grpc.aio.insecure_channel(running.stack.config.listen.address) as to,
    ):
        stub = health_pb2_grpc.HealthStub(to)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        answers = [asyncio.create_task(watch.read()) for watch in watches]
        # Which two come first is the client's affair.
        await until(lambda: sum(answer.done() for answer in answers) == 2)
        await asyncio.sleep(0.3)
        (waits,) = [answer for answer in answers if not answer.done()]
        next(
            watch for watch, answer in zip(watches, answers, strict=True) if answer.done()
        ).cancel()
        assert (await asyncio.wait_for(waits, 5)).status == SERVING
        for watch in watches:
            watch.cancel()
