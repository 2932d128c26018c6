"""The model server that gets stolen from: an ordinary Starlette application around the digits victim.

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

from detector.lab.fidelity import Classifier

PREDICT = "/predict"
HEALTH = "/health"

_MOST_ROWS = 1_000


def create_app(victim: Classifier, dimension: int) -> Starlette:
    """The application, without any of Weirguard in it."""

    async def predict(request: Request) -> JSONResponse:
        try:
            rows = np.array((await request.json())["instances"], dtype=np.float32)
        except (JSONDecodeError, KeyError, TypeError, ValueError):
            rows = np.empty(0, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != dimension or len(rows) > _MOST_ROWS or not np.isfinite(rows).all():
            expected = f'expected {{"instances": [[{dimension} numbers], ...]}} of at most {_MOST_ROWS} rows'
            return JSONResponse({"error": expected}, HTTPStatus.BAD_REQUEST)
        return JSONResponse({"predictions": victim.probabilities(rows).tolist()})

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route(PREDICT, predict, methods=["POST"]), Route(HEALTH, health)])
