"""JSON posted over HTTP, and what an answer means: webhooks and Alertmanager share it."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import detector
from detector.contracts.errors import ConfigurationError, NotificationRefused, ReceiverAway
from detector.notify.receivers.base import TIMEOUT_SECONDS
from detector.runtime.text import printable

_MOST_READ, _MOST_SHOWN = 4_096, 200
"""Bytes of an answer that are read, and characters that are shown."""
_LEAST_SECRET = 6
"""Shorter parts of a URL are not secrets, and may occur in words."""
_RETRIABLE = frozenset({408, 429})
_LONGEST_RETRY_AFTER = 300.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirected POST would become a GET, or carry secrets to another host."""

    def redirect_request(self, *_: object) -> None:
        return None


class HttpEndpoint:
    """One URL that accepts posts. ``key``: the setting that holds it, for errors, which never show the URL.
    ``secrets``: other texts that an answer may repeat and that must not be shown.

    user:password@ in it becomes basic authentication. Proxies are those of the environment (HTTPS_PROXY, NO_PROXY).
    """

    def __init__(self, url: str, key: str, cafile: Path | None, *secrets: str | None) -> None:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if host is None or parts.scheme not in ("http", "https") or not url.isprintable() or " " in url:
            raise ConfigurationError(f"{key} is not a URL that begins with http:// or https:// and names a host")
        self._url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        secret_parts = (*secrets, parts.password, parts.path.strip("/"), parts.query)
        self._secrets = [secret for secret in secret_parts if secret and len(secret) >= _LEAST_SECRET]
        self._headers = {"Content-Type": "application/json", "User-Agent": f"weirguard/{detector.__version__}"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        https = urllib.request.HTTPSHandler(context=new_tls_context(cafile, key))
        self._request = urllib.request.build_opener(_NoRedirects, https).open

    def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> str:
        """Posts ``body`` and returns status and beginning of the answer. Raises ReceiverAway or NotificationRefused."""
        request = urllib.request.Request(self._url, body, {**self._headers, **(headers or {})}, method="POST")  # noqa: S310 - checked above
        try:
            with self._request(request, timeout=TIMEOUT_SECONDS) as answer:
                return self._refusal_text(answer.status, answer.read(_MOST_READ))
        except urllib.error.HTTPError as error:
            with error:
                raise self._verdict(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise ReceiverAway(f"no answer: {failure_text(error)}") from None

    def _verdict(self, error: urllib.error.HTTPError) -> ReceiverAway | NotificationRefused:
        """Returns the error for a status other than 2xx: a client's fault is permanent, anything else may pass."""
        try:
            words = self._refusal_text(error.code, error.read(_MOST_READ))
        except (OSError, http.client.HTTPException):
            words = str(error.code)
        if 400 <= error.code < 500 and error.code not in _RETRIABLE:
            return NotificationRefused(words)
        retry_after = error.headers.get("Retry-After", "")
        seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
        return ReceiverAway(words, min(seconds, _LONGEST_RETRY_AFTER))

    def _refusal_text(self, status: int, body: bytes) -> str:
        text = body.decode(errors="replace").strip()
        for secret in self._secrets:
            text = text.replace(secret, "[withheld]")
        return f"{status} {printable(text)[:_MOST_SHOWN]}".strip()


def new_tls_context(cafile: Path | None, key: str) -> ssl.SSLContext:
    """Returns a context that trusts the authorities in ``cafile``, or the system's. Raises ConfigurationError."""
    try:
        return ssl.create_default_context(cafile=str(cafile) if cafile else None)
    except OSError as error:
        raise ConfigurationError(f"{key}: ssl_cafile: {cafile} holds no certificates: {failure_text(error)}") from None


def failure_text(error: Exception) -> str:
    """Returns the cause of a failed connection in words, without an address that may be secret."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing within {TIMEOUT_SECONDS:g} seconds"
    if isinstance(cause, socket.gaierror):
        return f"the host is not known: {cause.strerror}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {cause.reason or type(cause).__name__}"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__
