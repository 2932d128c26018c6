"""A real server, and a client that minds no manners: the bytes on the wire are the test's own."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from detector.serving.asgi import route
from tests.serving.stage import ANSWER, BODY, Guarded

TEXT = json.dumps(BODY).encode()


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[int]:
    """The port at which uvicorn serves ``app``; at the end all of its requests have ended."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=10, **options))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def head(path: str, *more: str, length: int | None = len(TEXT)) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: model", "X-Account: thief", "Connection: close", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def talk(port: int, *parts: bytes, until: bytes = b"") -> bytes:
    """What comes back for ``parts``, to its end or to ``until``, when the client leaves."""
    with socket.create_connection(("127.0.0.1", port), 20) as wire:
        for part in parts:
            wire.sendall(part)
        found = b""
        while piece := wire.recv(4_096):
            found += piece
            if until and until in found:
                break
    return found


def application() -> FastAPI:
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            gzip.decompress(body)
        return JSONResponse(ANSWER)

    @app.post("/stream")
    async def stream(request: Request) -> Response:
        await request.body()
        return StreamingResponse(pieces(), media_type="application/json")

    return app


async def pieces() -> AsyncIterator[bytes]:
    text = json.dumps(ANSWER).encode()
    yield text[:18]
    for _ in range(10_000):
        yield b" " * 1_000
    yield text[18:]


PACKED = gzip.compress(TEXT, mtime=0)
CHUNKS = b"".join(b"%x;ext=1\r\n%b\r\n" % (1, TEXT[at : at + 1]) for at in range(len(TEXT))) + b"0\r\nx: y\r\n\r\n"


REQUESTS = [
    (head("/predict"), TEXT),
    (head("/predict?a=b"), TEXT),
    (head("/predict%0A"), TEXT),
    (head("/%70redict"), TEXT),
    (head("/predict#x"), TEXT),
    (head("//predict"), TEXT),
    (head("http://model/predict"), TEXT),
    (head("/predict/"), TEXT),
    (head("/predict;x"), TEXT),
    (head("/predict%00"), TEXT),
    (head("/api/predict"), TEXT),
    (head("/predict", "Content-Encoding: gzip", length=len(PACKED)), PACKED),
    (head("/predict", "Transfer-Encoding: chunked", length=None), CHUNKS),
    (head("/predict", "Expect: 100-continue"), TEXT),
    (head("/predict", "X-Forwarded-Prefix: /x", "X-Original-URL: /other", "X-Rewrite-URL: /other"), TEXT),
    (head("/predict", "Upgrade: h2c", "HTTP2-Settings: AAA"), TEXT),
]


@pytest.mark.parametrize("root_path", ["", "/api"])
def test_what_is_answered_is_in_the_log(root_path: str) -> None:
    guarded = Guarded(application())
    answered = set()
    with serving(guarded.app, root_path=root_path) as port:
        for number, (line, body) in enumerate(REQUESTS):
            found = talk(port, line.replace(b"thief", b"%d" % number) + body)  # an early answer must not find it unread
            answered |= {str(number)} if b"predictions" in found else set()
    assert len(answered) > len(REQUESTS) / 2
    assert {rows.principal for rows in guarded.logger.kept() if rows.queries == 2} == answered
    assert not guarded.logger.unread


def test_several_requests_on_one_wire_are_all_in_the_log() -> None:
    guarded = Guarded(application())
    first = head("/predict").replace(b"Connection: close\r\n", b"")
    with serving(guarded.app) as port:
        found = talk(port, first + TEXT + first + TEXT + head("/predict") + TEXT)
    assert found.count(b"predictions") == 3
    assert guarded.accounts == (6, {})


def test_a_client_that_leaves_in_the_middle_is_accounted_for() -> None:
    guarded = Guarded(application(), target=route("/stream", "digits", "1"), max_body_bytes=100_000_000)
    with serving(guarded.app) as port:
        found = talk(port, head("/stream"), TEXT, until=b"predictions")
    assert b"200 OK" in found
    assert guarded.accounts in [(2, {}), (0, {"interrupted": 1})]
