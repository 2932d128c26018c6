"""The model server that thieves attack: a Starlette application, guarded as an operator would guard one.

POST /predict takes {"instances": [[64 numbers], ...]} and returns {"predictions": [[10 probabilities], ...]}: digits.
POST /tumours/predict is the same for a decision tree of 30 numbers and 2 classes, and returns "leaf" besides: for each
row, the number of its leaf, unless a decision asks for another answer than the model's: a leaf gives that away.
"""

from __future__ import annotations

import secrets
from http import HTTPStatus
from json import JSONDecodeError

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from detector.lab.answers import Victim
from detector.lab.datasets import sklearn_table
from detector.lab.mappings import ACCOUNT_HEADER
from detector.lab.victims import digits
from detector.lab.victims.tabular import TreeVictim
from detector.runtime.sections import KafkaSettings
from detector.serving import Connection, Gate, Header, Identity, QueryLogger, Responder
from detector.serving.asgi import Target, WeirguardMiddleware, respond

PREDICT = "/predict"
TUMOURS = "/tumours"
TUMOURS_MODEL = "tumours"
HEALTH = "/health"

_TARGETS = {
    PREDICT: Target(digits.MODEL, digits.MODEL_VERSION),
    TUMOURS + PREDICT: Target(TUMOURS_MODEL, digits.MODEL_VERSION),
}
_MOST_ROWS = 1_000


def create_demo() -> Starlette:
    """Returns both models of the demo in one application."""
    table = sklearn_table("breast cancer")
    tree = create_app(TreeVictim(table), table.dimension)
    network = create_app(digits.DigitsVictim(digits.load_split().training), digits.DIMENSION)
    return Starlette(routes=[Mount(TUMOURS, tree), *network.routes])


def create_app(victim: Victim, dimension: int) -> Starlette:
    """Returns the application of one model; the one line of Weirguard in it is the call of ``respond``."""

    async def predict(request: Request) -> JSONResponse:
        try:
            rows = np.array((await request.json())["instances"], dtype=np.float32)
        except (JSONDecodeError, KeyError, TypeError, ValueError):
            rows = np.empty(0, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != dimension or len(rows) > _MOST_ROWS or not np.isfinite(rows).all():
            expected = f'expected {{"instances": [[{dimension} numbers], ...]}} of at most {_MOST_ROWS} rows'
            return JSONResponse({"error": expected}, HTTPStatus.BAD_REQUEST)
        answers = victim.answer(rows)
        probabilities = answers.probabilities
        if answers.leaf is None:
            return JSONResponse({"predictions": respond(request.scope, rows, probabilities).tolist()})
        served = respond(request.scope, rows, probabilities, leaf=answers.leaf)
        leaves = {"leaf": answers.leaf.tolist()} if served is probabilities else {}
        return JSONResponse({"predictions": served.tolist(), **leaves})

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route(PREDICT, predict, methods=["POST"]), Route(HEALTH, health)])


def guard(app: Starlette, kafka: KafkaSettings) -> WeirguardMiddleware:
    """Returns ``app``, with one model of the demo or both, so that it logs predictions to ``kafka`` and applies the
    detector's decisions. The account is X-Account as sent, which only a demo may do: it is not authenticated."""
    connection = Connection(",".join(kafka.servers), kafka.topics, kafka.client_arguments())
    return WeirguardMiddleware(
        app,
        logger=QueryLogger(connection),
        gate=Gate(connection, responder=Responder(secrets.token_bytes(32))),  # one process; several must share a key
        target=lambda scope: _TARGETS.get(scope["path"]),
        identity=Identity((Header(ACCOUNT_HEADER),)),
    )
