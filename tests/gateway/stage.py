"""A gate service fed by hand, on a real port, and a model server behind a proxy: all in threads of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from detector.contracts.principals import PrincipalHasher
from detector.gateway.authorizer import Authorizer, find_target_of, identity_of
from detector.gateway.service import listening
from detector.runtime.sections import GateSettings
from detector.serving import Gate
from tests.serving.doubles import KeepingLogger

SETTINGS = GateSettings(port=0, routes={"/predict": "digits"}, kserve=True, principal=("header:x-account", "api-key"))
HASHER = PrincipalHasher(b"k")


class FedAuthorizer(Authorizer):
    """Its gate and logger have no threads."""

    def start(self) -> None: ...

    def close(self) -> None: ...


def fed_authorizer(gate: Gate, settings: GateSettings = SETTINGS) -> Authorizer:
    return FedAuthorizer(
        None,
        logger=KeepingLogger(),
        gate=gate,
        target=find_target_of(settings),
        identity=identity_of(settings, HASHER),
    )


@contextmanager
def served(authorizer: Authorizer, settings: GateSettings = SETTINGS) -> Iterator[int]:
    """The gate service in a thread; gives its port of HTTP, or of gRPC where it has one."""
    ports: list[dict[str, int]] = []
    up, loop = threading.Event(), asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with listening(authorizer, settings) as own:
            ports.append(own)
            up.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    try:
        assert up.wait(20)
        yield ports[0].get("grpc", ports[0]["http"])
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)
        loop.close()


class ModelHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"predictions":[[0.25,0.75]]}'
        self.send_response(418 if self.path.endswith("teapot") else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def ask_as_it_is(port: int, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> HTTPResponse:
    """The answer to a request whose path no client has tidied."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer
    finally:
        connection.close()


@contextmanager
def model_server() -> Iterator[int]:
    """A model server without a gate; gives its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), ModelHandler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(20)
