"""Certificates of the ext_proc port: read, checked, and read again when their files change."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weighbridge.config import Tls
from weighbridge.errors import ConfigError
from weighbridge.watch import Stamp, stamp

log = logging.getLogger(__name__)


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
    if tls.client_ca:
        path = _path(tls.client_ca, source)
        try:
            context.load_verify_locations(path)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"{source}: listen.tls.client_ca: {path} holds no certificate: {error}"
            ) from None
    return found


async def follow(
    tls: Tls, source: Path, interval_seconds: float, use: Callable[[Certificates], None]
) -> None:
    """Hands over the certificates each time that a file has changed and all of them fit together.

    While they do not (a rotation writes one after the other) the former ones stay in use.
    """
    paths = [_path(name, source) for name in (tls.certificate, tls.key, tls.client_ca) if name]
    known = _stamps(paths)
    complained: list[Stamp] = []
    while True:
        await asyncio.sleep(interval_seconds)
        now = _stamps(paths)
        if now == known:
            continue
        try:
            use(read(tls, source))
        except ConfigError as error:
            if complained != now:
                log.error("certificates not reloaded: %s", error)
                complained = now
            continue
        known = now
        log.info("certificates reloaded from %s", paths[0])


def _path(name: str, source: Path) -> Path:
    return source.parent / name


def _stamps(paths: list[Path]) -> list[Stamp]:
    return [stamp(path) for path in paths]


def _bytes(key: str, path: Path, source: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source}: listen.tls.{key}: {path}: {error.strerror}") from None
