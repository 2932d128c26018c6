"""A model server that answers any query, as boosted trees do: with it, queries are easiest to hide."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route

from detector.runtime.broker import free_port
from detector.runtime.sections import KafkaSettings
from detector.serving import Connection, Gate, QueryLogger
from detector.serving.asgi import FindTarget, Target, WeirguardMiddleware, kserve_routes, route
from detector.serving.extractors import kserve_v1
from tests.core.honest import CLASSES, DIMENSION
from tests.core.streams import linear_outputs

MODEL, VERSION = "credit", "1"
MOST_BYTES = 20_000
"""Bodies above this are not read by the middleware; the server answers them all the same."""

_DECODERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


def features_of(instances: list[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(n, d): cut or filled up to the model's width, what is missing or odd replaced, as lenient servers do."""
    rows = np.zeros((len(instances), DIMENSION))
    for at, instance in enumerate(instances):
        numbers = np.array([np.nan if value is None else float(value) for value in instance[:DIMENSION]])
        rows[at, : len(numbers)] = np.clip(np.nan_to_num(numbers, nan=0.5), -10, 10)
    return rows.astype(np.float32)


async def predict(request: Request) -> JSONResponse | StreamingResponse:
    """Asks for a token, reads gzip and deflate, and takes Python's JSON with NaN and Infinity."""
    if not request.headers.get("authorization", "").lower().startswith("bearer"):
        return JSONResponse({"error": "who are you?"}, 401)
    body = await request.body()
    body = _DECODERS.get(request.headers.get("content-encoding", ""), bytes)(body)
    document = json.loads(body.decode("utf-8-sig"))
    answer = {"predictions": linear_outputs(features_of(document["instances"]), CLASSES).tolist()}
    if document.get("stream"):
        return StreamingResponse(_in_pieces(json.dumps(answer).encode()), media_type="application/json")
    return JSONResponse(answer, background=BackgroundTask(_audit) if document.get("audit") else None)


async def _in_pieces(data: bytes) -> Any:
    for start in range(0, len(data), 7):
        yield data[start : start + 7]


def _audit() -> None:
    raise RuntimeError("the audit store is down")


def _targets() -> FindTarget:
    plain, named = route("/predict", MODEL, VERSION), kserve_routes(VERSION)

    def find(scope: Any) -> Target | None:
        return plain(scope) or named(scope)

    return find


@dataclass(frozen=True, slots=True)
class Serving:
    """The server at ``port`` of this machine, and what guards it."""

    port: int
    logger: QueryLogger
    gate: Gate
    middleware: WeirguardMiddleware


@contextmanager
def serving(kafka: KafkaSettings) -> Iterator[Serving]:
    """The application in a thread of this process, at the root and mounted under a prefix, with bodies of up to
    ``MOST_BYTES`` read."""
    connection = Connection(",".join(kafka.servers), kafka.topics, kafka.client_arguments())
    routes = [
        Route("/predict", predict, methods=["POST"]),
        Route("/v1/models/credit:predict", predict, methods=["POST"]),
        Route("/v1/models/credit/versions/{version}:predict", predict, methods=["POST"]),
    ]
    inner = Starlette(routes=routes, middleware=[Middleware(GZipMiddleware, minimum_size=0)])
    with QueryLogger(connection) as logger, Gate(connection) as gate:
        middleware = WeirguardMiddleware(
            inner, logger=logger, gate=gate, target=_targets(), extract=kserve_v1(), max_body_bytes=MOST_BYTES
        )
        app = Starlette(routes=[Mount("/mounted", middleware), Mount("/", middleware)])
        config = uvicorn.Config(app, port=free_port(), log_level="critical", lifespan="off", timeout_keep_alive=300)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield Serving(config.port, logger, gate, middleware)
        finally:
            server.should_exit = True
            thread.join()
