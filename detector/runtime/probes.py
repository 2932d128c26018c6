"""The HTTP port of /metrics, /livez and /readyz, in threads of its own: it answers while the stream is busy."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self, cast

from detector.contracts.errors import ConfigurationError
from detector.runtime.health import Health, Probe
from detector.runtime.metrics import CONTENT_TYPE, Metrics

_Answer = tuple[HTTPStatus, str, bytes]


def _ignore(_: Exception) -> None:
    return None


class ProbeServer:
    """Serves ``metrics`` and ``health`` on ``host`` and ``port``, 0 for any, until stopped.

    ``failed`` is called with each error of an answer; the server goes on. Raises ConfigurationError when the port is
    not available.
    """

    def __init__(
        self, metrics: Metrics, health: Health, host: str, port: int, failed: Callable[[Exception], None] = _ignore
    ) -> None:
        pages = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics.render()),
            "/livez": lambda: _answer(health.live()),
            "/readyz": lambda: _answer(health.ready()),
        }
        try:
            self._server = _Server((host, port), _handler(pages))
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"metrics.host, metrics.port: cannot listen on {host}:{port}: {error}") from error
        self._server.failed = failed
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="probes", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping:
            try:
                self._server.serve_forever(0.05)
            except Exception as error:  # noqa: BLE001 - probes that are silent have the worker killed
                self._server.failed(error)

    def stop(self) -> None:
        """Closes the port."""
        self._stopping = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    failed: Callable[[Exception], None] = staticmethod(_ignore)
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores a client that leaves."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, ConnectionError | TimeoutError):
            self.failed(error)


def _answer(probe: Probe) -> _Answer:
    status = HTTPStatus.OK if probe.ok else HTTPStatus.SERVICE_UNAVAILABLE
    body = json.dumps({"ok": probe.ok, "why": probe.why, **probe.facts}).encode()
    return status, "application/json", body + b"\n"


def _handler(pages: dict[str, Callable[[], _Answer]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0
        server_version = "weirguard"
        sys_version = ""

        def do_GET(self) -> None:
            server = cast(_Server, self.server)
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            try:
                status, kind, body = page()
            except Exception as error:  # noqa: BLE001 - answered and counted
                server.failed(error)
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
                return
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Logs nothing: there is a probe each second."""

    return Handler
