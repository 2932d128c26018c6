"""A model on a real HTTP server behind logger, gate and responder, as an operator would guard one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from detector.serving import Connection, Gate, Header, Identity, QueryLogger, Responder
from detector.serving.asgi import WeirguardMiddleware, respond, route

MODEL = "digits"
_KEY = b"0123456789abcdef"


Reply = tuple[int, dict[str, str], bytes]
"""Status, headers but for the date, and body."""


@dataclass(frozen=True)
class GuardedModel:
    """The server at ``url``, its gate, and ``client``, which asks it."""

    url: str
    gate: Gate
    client: httpx.Client

    def ask(self, account: str, row: tuple[float, ...] = (0.5, 0.2), model: str = MODEL) -> Reply:
        """The answer to one query; status 0 without one."""
        body = {"instances": [row]}
        try:
            answer = self.client.post(f"{self.url}/{model}", json=body, headers={"x-account": account})
        except httpx.HTTPError as error:
            return 0, {}, repr(error).encode()
        return answer.status_code, {**answer.headers, "date": ""}, answer.content


async def _predict(request: Request) -> JSONResponse:
    rows = np.array((await request.json())["instances"], np.float32)
    scores = np.exp(np.stack([rows[:, 0], rows[:, 1], rows[:, 0] - rows[:, 1], rows.sum(axis=1) - 1], axis=1))
    return JSONResponse({"predictions": respond(request.scope, rows, scores / scores.sum(1, keepdims=True)).tolist()})


@contextmanager
def guarded_model(
    connection: Connection, models: tuple[str, ...] = (MODEL,), **settings: Any
) -> Iterator[GuardedModel]:
    """The server in a thread of this process, one path a model; ``settings``: of the gate."""
    targets = {f"/{model}": route(f"/{model}", model, "1") for model in models}
    gate = Gate(connection, responder=Responder(_KEY), **settings)
    app = WeirguardMiddleware(
        Starlette(routes=[Route(path, _predict, methods=["POST"]) for path in targets]),
        logger=QueryLogger(connection),
        gate=gate,
        target=lambda scope: targets[scope["path"]](scope) if scope["path"] in targets else None,
        identity=Identity([Header("x-account")]),
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, httpx.Client(timeout=20) as client:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert gate.wait_until_ready(20)
            yield GuardedModel(f"http://127.0.0.1:{listener.getsockname()[1]}", gate, client)
        finally:
            server.should_exit = True
            thread.join(20)
