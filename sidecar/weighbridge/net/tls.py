"""Certificates of the ext_proc port: read, checked, and refused where they are out of date."""

import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path

from weighbridge.config.listen import Tls
from weighbridge.errors import ConfigError

# OpenSSL's codes of a certificate that is not valid yet, or not any more.
OUT_OF_DATE = frozenset({9, 10})
MOST_TURNS = 4


@dataclass(frozen=True)
class Certificates:
    """What the server shows and whom it believes, as PEM text."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


def read(tls: Tls, source: Path) -> Certificates:
    """Reads and checks the files that the configuration `source` names, relative to it.

    ConfigError names the configuration, the key and the file.
    """
    certificate, key = (_path(tls.certificate, source), _path(tls.key, source))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found = Certificates(
        _bytes("certificate", certificate, source),
        _bytes("key", key, source),
        _bytes("client_ca", _path(tls.client_ca, source), source) if tls.client_ca else None,
    )
    try:
        # A password would be asked for on the terminal; an empty one fails instead.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{source}: listen.tls: {certificate} and {key} are no certificate and its key: {error}"
        ) from None
    require_valid(certificate, key, f"{source}: listen.tls.certificate")
    if tls.client_ca:
        path = _path(tls.client_ca, source)
        try:
            context.load_verify_locations(path)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"{source}: listen.tls.client_ca: {path} holds no certificate: {error}"
            ) from None
    return found


def files(tls: Tls, source: Path) -> list[Path]:
    """The files that the certificates are read from."""
    return [_path(name, source) for name in (tls.certificate, tls.key, tls.client_ca) if name]


def require_valid(certificate: Path, key: Path, where: str) -> None:
    """ConfigError where the first of the certificates is not valid now, by its dates.

    Told by a handshake in memory with a client that trusts just this one.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key, password="")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(certificate)
        _shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in OUT_OF_DATE:
            raise ConfigError(f"{where}: {certificate}: {error.verify_message}") from None


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    # Each has its say a few times; the client judges in its second turn.
    for side in sides * MOST_TURNS:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()


def _path(name: str, source: Path) -> Path:
    return source.parent / name


def _bytes(key: str, path: Path, source: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source}: listen.tls.{key}: {path}: {error.strerror}") from None
