"""Certificates that cannot be used: one line that names the configuration, the key and the file."""

from pathlib import Path

import pytest
import trustme

from weighbridge.config import Tls
from weighbridge.errors import ConfigError
from weighbridge.tls import read


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
