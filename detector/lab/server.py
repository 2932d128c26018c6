"""The model server that gets stolen from: a Starlette application, guarded as any operator would guard his own.

POST /predict takes {"instances": [[64 numbers], ...]} and gives {"predictions": [[10 probabilities], ...]}.
"""

from __future__ import annotations

from http import HTTPStatus
from json import JSONDecodeError

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from detector.lab.answers import Classifier
from detector.lab.client import ACCOUNT_HEADER
from detector.lab.victims.digits import MODEL, MODEL_VERSION
from detector.runtime.sections import KafkaSettings
from detector.serving import Connection, Gate, Header, Identity, QueryLogger
from detector.serving.asgi import WeirguardMiddleware, log, route

PREDICT = "/predict"
HEALTH = "/health"

_MOST_ROWS = 1_000


def create_app(victim: Classifier, dimension: int) -> Starlette:
    """The application; the one line of Weirguard in it is the call of ``log``."""

    async def predict(request: Request) -> JSONResponse:
        try:
            rows = np.array((await request.json())["instances"], dtype=np.float32)
        except (JSONDecodeError, KeyError, TypeError, ValueError):
            rows = np.empty(0, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != dimension or len(rows) > _MOST_ROWS or not np.isfinite(rows).all():
            expected = f'expected {{"instances": [[{dimension} numbers], ...]}} of at most {_MOST_ROWS} rows'
            return JSONResponse({"error": expected}, HTTPStatus.BAD_REQUEST)
        probabilities = victim.probabilities(rows)
        log(request.scope, rows, probabilities)
        return JSONResponse({"predictions": probabilities.tolist()})

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route(PREDICT, predict, methods=["POST"]), Route(HEALTH, health)])


def guard(app: Starlette, kafka: KafkaSettings) -> WeirguardMiddleware:
    """``app`` with its predictions logged to ``kafka`` and the detector's decisions obeyed.

    The account is taken from X-Account as it stands, which only a demo may do: nobody authenticates it.
    """
    connection = Connection(",".join(kafka.servers), kafka.topics, kafka.client_arguments())
    return WeirguardMiddleware(
        app,
        logger=QueryLogger(connection),
        gate=Gate(connection),
        target=route(PREDICT, MODEL, MODEL_VERSION),
        identity=Identity((Header(ACCOUNT_HEADER),)),
    )
