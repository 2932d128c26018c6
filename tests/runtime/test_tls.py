"""TLS from the settings: files that do not fit are an error at start, and a passphrase is never asked for."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from detector.contracts.errors import ConfigurationError
from detector.runtime.sections import KafkaSettings, tls_context

PASSPHRASE = "opens it"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with a locked key, and a key that is not its own."""
    folder = tmp_path_factory.mktemp("tls")
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=one", "-days", "1"]
    for name, locked in (("one", ["-passout", f"pass:{PASSPHRASE}"]), ("other", ["-nodes"])):
        made = [*request, *locked, "-keyout", f"{name}.key", "-out", f"{name}.crt"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder)
    return folder


def _context(folder: Path, **options: Any) -> ssl.SSLContext | None:
    return tls_context(KafkaSettings(security_protocol="SSL", ssl_certfile=folder / "one.crt", **options))


def test_a_locked_key_opens_with_its_passphrase(folder: Path) -> None:
    assert _context(folder, ssl_keyfile=folder / "one.key", ssl_password=PASSPHRASE) is not None


@pytest.mark.parametrize(
    ("key", "options"),
    [("one.key", {"ssl_password": "wrong"}), ("one.key", {}), ("other.key", {}), ("one.crt", {})],
)
def test_a_key_that_does_not_open_or_fit_is_an_error(key: str, options: dict[str, str], folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ssl_certfile.*one\.crt") as caught:
        _context(folder, ssl_keyfile=folder / key, **options)
    assert "wrong" not in str(caught.value)


def test_without_tls_there_is_none() -> None:
    assert tls_context(KafkaSettings()) is None


def test_the_name_in_the_certificate_may_go_unchecked(folder: Path) -> None:
    whole = _context(folder, ssl_keyfile=folder / "one.key", ssl_password=PASSPHRASE)
    lax = _context(folder, ssl_keyfile=folder / "one.key", ssl_password=PASSPHRASE, ssl_check_hostname=False)
    assert whole is not None
    assert lax is not None
    assert (whole.check_hostname, lax.check_hostname) == (True, False)
