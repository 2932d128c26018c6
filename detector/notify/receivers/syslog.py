"""Syslog, RFC 5424, over UDP (RFC 5426), TCP (RFC 6587, octet counting) or TLS (RFC 5425).

Syslog acknowledges nothing, and a message written to a connection whose server has died is lost unnoticed. So each
message over TCP and TLS has a connection of its own: it counts as delivered once the server, having read to the end,
closes its side too. A server that dies with unread data resets the connection.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from typing import Final

from detector.contracts.errors import ConfigurationError, ReceiverAway
from detector.contracts.findings import Severity
from detector.notify.notification import Notification
from detector.notify.receivers.base import TIMEOUT_SECONDS, Receiver, Surroundings
from detector.notify.receivers.http import new_tls_context, why
from detector.runtime.receivers import SyslogSettings
from detector.runtime.text import printable, rfc3339

_FACILITY = 10
"""Security and authorisation messages."""
_SEVERITIES: Final[dict[Severity, int]] = {"low": 5, "medium": 4, "high": 2}
"""Notice, warning, critical."""
_ENTERPRISE = "weirguard@32473"
"""The structured data's id; 32473 is the number that RFC 5612 reserves for documentation."""
_MOST_UDP = 60_000
_BRIEF_SECONDS = 0.1
"""How long a host takes to answer that nobody listens on a UDP port."""


class SyslogServer(Receiver):
    """Sends each notification as one message."""

    def __init__(self, settings: SyslogSettings, around: Surroundings) -> None:
        self._address = settings.host, settings.port
        self._transport = settings.transport
        self._hostname = _header_field(around.hostname, 255)
        self._tls = None
        if settings.transport == "tls":
            self._tls = _context(settings, around.key("syslog"))

    def send(self, notification: Notification) -> str:
        message = self._message(notification)
        try:
            if self._transport == "udp":
                return self._send_datagram(message[:_MOST_UDP])
            return self._send_stream(message)
        except OSError as error:
            raise ReceiverAway(f"no delivery: {why(error)}") from None

    def _message(self, notification: Notification) -> bytes:
        priority = 8 * _FACILITY + _SEVERITIES[notification.severity]
        time = rfc3339(notification.occurred_at)
        header = f"<{priority}>1 {time} {self._hostname} weirguard {os.getpid()} {notification.kind}"
        fields = {
            "id": notification.id,
            "revision": str(notification.revision),
            "severity": notification.severity,
            "resolved": str(notification.resolved).lower(),
            **notification.labels,
            **({"technique": notification.technique} if notification.technique else {}),
        }
        data = " ".join(f'{name}="{_escaped(value)}"' for name, value in fields.items())
        return f"{header} [{_ENTERPRISE} {data}] \ufeff{printable(notification.title)}".encode(errors="replace")

    def _send_datagram(self, message: bytes) -> str:
        family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as connection:
            connection.connect(address)
            connection.send(message)
            connection.settimeout(_BRIEF_SECONDS)
            with contextlib.suppress(TimeoutError):
                connection.recv(1)  # raises if the host says that nobody listens
        return "sent; UDP does not say whether it arrived"

    def _send_stream(self, message: bytes) -> str:
        with socket.create_connection(self._address, TIMEOUT_SECONDS) as plain:
            if self._tls is None:
                _write_and_wait(plain, message)
            else:
                with self._tls.wrap_socket(plain, server_hostname=self._address[0]) as secured:
                    _write_and_wait(secured, message)
        return "received: the server has read to the end"


def _write_and_wait(connection: socket.socket, message: bytes) -> None:
    """Writes ``message``, ends the stream, and waits until the server has ended its own. Raises OSError."""
    connection.sendall(b"%d %b" % (len(message), message))
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):  # it ended TCP without a word of TLS
            connection.unwrap()
        return
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(4_096):
        pass


def _context(settings: SyslogSettings, key: str) -> ssl.SSLContext:
    context = new_tls_context(settings.ssl_cafile, key)
    if settings.ssl_certfile:
        try:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, "")
        except OSError as error:
            raise ConfigurationError(
                f"{key}: there is no certificate, or no key without passphrase that fits it, in "
                f"{settings.ssl_certfile}, {settings.ssl_keyfile or 'the same file'}: {why(error)}"
            ) from None
    return context


def _header_field(text: str, most: int) -> str:
    """Returns ``text`` in the characters that a header field may have, or the dash for none."""
    return re.sub(r"[^!-~]", "", text)[:most] or "-"


def _escaped(value: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", printable(value))
