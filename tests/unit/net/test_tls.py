"""Certificates that cannot be used: one line that names the configuration, the key and the file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from weighbridge.admin import access
from weighbridge.config.admin import Admin, AdminTls
from weighbridge.config.listen import Tls
from weighbridge.errors import ConfigError
from weighbridge.net.tls import read


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A configuration file with good certificates beside it."""
    authority = trustme.CA()
    issued = authority.issue_cert("weighbridge.test")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.private_key_pem.write_to_path(tmp_path / "own.key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    trustme.CA().issue_cert("other.test").private_key_pem.write_to_path(tmp_path / "other.key")
    (tmp_path / "empty.pem").write_text("")
    return tmp_path / "weighbridge.yaml"


def test_good_files_are_read_relative_to_the_configuration(source: Path) -> None:
    found = read(Tls(certificate="own.pem", key="own.key", client_ca="ca.pem"), source)
    assert found.certificate == (source.parent / "own.pem").read_bytes()
    assert found.client_ca == (source.parent / "ca.pem").read_bytes()
    assert read(Tls(certificate="own.pem", key="own.key"), source).client_ca is None


@pytest.mark.parametrize(
    ("files", "key", "file"),
    [
        ({"certificate": "none.pem"}, "listen.tls.certificate", "none.pem"),
        ({"key": "none.key"}, "listen.tls.key", "none.key"),
        ({"client_ca": "none.pem"}, "listen.tls.client_ca", "none.pem"),
        ({"client_ca": "empty.pem"}, "listen.tls.client_ca", "empty.pem"),
        ({"key": "other.key"}, "listen.tls", "other.key"),
        ({"certificate": "empty.pem"}, "listen.tls", "empty.pem"),
    ],
)
def test_what_cannot_be_used_is_named(
    source: Path, files: dict[str, str], key: str, file: str
) -> None:
    good = {"certificate": "own.pem", "key": "own.key"}
    with pytest.raises(ConfigError) as caught:
        read(Tls(**(good | files)), source)
    message = str(caught.value)
    assert str(source) in message
    assert key in message
    assert file in message


@pytest.mark.parametrize(
    ("first", "last", "what"),
    [(-20, -10, "certificate has expired"), (10, 20, "certificate is not yet valid")],
)
def test_a_certificate_that_is_out_of_date_is_refused(
    source: Path, first: int, last: int, what: str
) -> None:
    now = datetime.now(tz=UTC)
    issued = trustme.CA().issue_cert(
        "weighbridge.test",
        not_before=now + timedelta(days=first),
        not_after=now + timedelta(days=last),
    )
    issued.private_key_pem.write_to_path(source.parent / "old.key")
    issued.cert_chain_pems[0].write_to_path(source.parent / "old.pem")
    with pytest.raises(ConfigError, match=rf"listen\.tls\.certificate: .*old\.pem: {what}"):
        read(Tls(certificate="old.pem", key="old.key"), source)
    admin = Admin(tls=AdminTls(certificate="old.pem", key="old.key"))
    with pytest.raises(ConfigError, match=rf"admin\.tls: .*old\.pem: {what}"):
        access.load(admin, source)


def test_an_authority_that_is_not_known_here_is_no_matter(source: Path) -> None:
    root = trustme.CA()
    issued = root.create_child_ca().issue_cert("weighbridge.test")
    issued.private_key_pem.write_to_path(source.parent / "leaf.key")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    (source.parent / "leaf.pem").write_bytes(chain)
    assert read(Tls(certificate="leaf.pem", key="leaf.key"), source).certificate == chain
