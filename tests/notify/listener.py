"""A receiver in a process of its own, which tests kill: ``python -m tests.notify.listener KIND PORT FILE [STATUS]``.

KIND is ``http``, ``alertmanager`` (which answers as Alertmanager's API version 2 does, for where there is none),
``tcp`` or ``tls``. What it gets is a line of JSON in FILE, written before it answers. STATUS: what HTTP answers.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def _keep(path: Path, entry: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def serve_http(port: int, path: Path, status: int, *, alertmanager: bool) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            wrong = faults_of_alerts(self.path, body) if alertmanager else None
            if status < 300 and not wrong:
                _keep(path, {"path": self.path, "headers": dict(self.headers), "body": body.decode()})
            self.send_response(400 if wrong else status)
            self.end_headers()
            self.wfile.write((wrong or "what you sent is kept").encode())

        def log_message(self, *_: object) -> None: ...

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def faults_of_alerts(path: str, body: bytes) -> str | None:
    """What Alertmanager refuses of a post to its API, by its OpenAPI description of version 2."""
    if path != "/api/v2/alerts":
        return f"path {path} was not found"
    try:
        for alert in json.loads(body):
            assert alert.keys() <= {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}, "unknown field"
            assert alert["labels"], "at least one label pair required"
            assert all(re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name) for name in alert["labels"]), "names of labels"
            texts = [text for part in ("labels", "annotations") for text in alert[part].values()]
            assert all(isinstance(text, str) for text in texts), "values that are no texts"
            start, end = (datetime.fromisoformat(alert[name]) for name in ("startsAt", "endsAt"))
            assert start <= end, "start time must be before end time"
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        return repr(error)
    return None


def serve_syslog(port: int, path: Path, certificate: str | None) -> None:
    """Reads octet-counted messages to the end of each connection, then closes it."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            plain, _ = server.accept()
            with suppress(OSError):  # a client that only looks whether somebody listens
                _keep_messages(plain if context is None else context.wrap_socket(plain, server_side=True), path)


def _keep_messages(connection: socket.socket, path: Path) -> None:
    with connection:
        data = b""
        while chunk := connection.recv(65_536):
            data += chunk
        while data:
            size, _, data = data.partition(b" ")
            _keep(path, {"message": data[: int(size)].decode()})
            data = data[int(size) :]


if __name__ == "__main__":
    kind, listening, kept, *rest = sys.argv[1:]
    if kind in ("tcp", "tls"):
        serve_syslog(int(listening), Path(kept), rest[0] if rest else None)
    else:
        status_code = int(rest[0]) if rest else 200
        serve_http(int(listening), Path(kept), status_code, alertmanager=kind == "alertmanager")
