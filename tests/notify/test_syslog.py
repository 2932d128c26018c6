"""Syslog: the form of RFC 5424, and what each transport can tell about delivery."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detector.contracts.errors import ConfigurationError, ReceiverAway
from detector.notify.receivers import base, new_receiver
from detector.notify.receivers import syslog as module
from detector.runtime.receivers import ReceiverSettings
from tests.notify.alerts import NOW, notification

RFC_5424 = re.compile(
    r"<(?P<pri>\d{1,3})>1 (?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<host>[!-~]{1,255}) weirguard \d+ "
    r'(?P<msgid>[!-~]{1,32}) \[weirguard@32473(?P<data>( [a-z_]+="([^"\\\]]|\\["\\\]])*")+)\] \ufeff(?P<msg>.*)'
)


def _syslog(port: int, **settings: Any) -> base.Receiver:
    described = ReceiverSettings.model_validate({"syslog": {"host": "127.0.0.1", "port": port, **settings}})
    return new_receiver(described, base.Surroundings("siem", lambda: NOW, "höst.example"))


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        yield server


def _message(udp: socket.socket, **changes: Any) -> re.Match[str]:
    _syslog(udp.getsockname()[1], transport="udp").send(notification("one", **changes))
    found = RFC_5424.fullmatch(udp.recv(65_536).decode())
    assert found
    return found


@pytest.mark.parametrize(("severity", "priority"), [("low", "85"), ("medium", "84"), ("high", "82")])
def test_a_message_has_the_form_of_rfc_5424(udp: socket.socket, severity: str, priority: str) -> None:
    found = _message(udp, severity=severity)
    assert found["pri"] == priority
    assert found["host"] == "hst.example"
    assert found["msgid"] == "alert"
    assert ' id="one" revision="1" ' in found["data"]
    assert ' principal="account-17" ' in found["data"]
    assert found["data"].endswith(' technique="AML.T0024.002"')


def test_structured_data_is_escaped(udp: socket.socket) -> None:
    assert r'principal="a\"b\\c\]d e"' in _message(udp, principal='a"b\\c]d e')["data"]


def test_udp_says_that_nobody_listens_but_not_that_it_arrived(udp: socket.socket) -> None:
    port = udp.getsockname()[1]
    assert "does not say" in _syslog(port, transport="udp").send(notification())
    udp.close()
    with pytest.raises(ReceiverAway, match="refused"):
        _syslog(port, transport="udp").send(notification())


@pytest.mark.parametrize("reads", ["nothing", "a part"])
def test_a_server_that_hangs_up_before_it_has_read_all_has_nothing(reads: str) -> None:
    """As one that is killed does: its kernel resets the connection."""

    def hang_up() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1, socket.MSG_PEEK)
            if reads == "a part":
                connection.recv(10)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(ReceiverAway):
            _syslog(server.getsockname()[1]).send(notification())
        thread.join()


def test_a_server_that_reads_and_never_closes_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ReceiverAway, match="nothing within"):
        _syslog(server.getsockname()[1]).send(notification())


def test_a_certificate_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path) -> None:
    wrong = tmp_path / "x.pem"
    wrong.write_text("x", "utf-8")
    for settings in ({"ssl_cafile": wrong}, {"ssl_certfile": wrong}):
        with pytest.raises(ConfigurationError, match=r"notify\.receivers\.siem\.syslog"):
            _syslog(1, transport="tls", **settings)


def test_a_server_that_is_not_trusted_gets_nothing(tmp_path: Path) -> None:
    from tests.notify.stands import TlsSyslogStand

    with TlsSyslogStand(tmp_path) as stand:
        with pytest.raises(ReceiverAway, match="TLS: CERTIFICATE_VERIFY_FAILED"):
            _syslog(stand.port, transport="tls").send(notification())
        assert stand.entries() == []
