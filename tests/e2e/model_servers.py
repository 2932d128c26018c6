"""Model servers that do not know Weirguard: queries and answers are read from the JSON that passes."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from detector.lab.mappings import ACCOUNT_HEADER
from detector.lab.server import PREDICT
from detector.lab.victims.tabular import TreeVictim
from detector.runtime.sections import KafkaSettings
from detector.serving import Connection, Gate, Header, Identity, QueryLogger
from detector.serving.asgi import WeirguardMiddleware, route
from detector.serving.extractors import Extractor, kserve_v1, kserve_v2
from tests.lab.zoo import Zoo


def tree_server(victim: TreeVictim, kafka: KafkaSettings) -> WeirguardMiddleware:
    """KServe v1, features that are null left out; each answer with its node and the feature missed there."""

    async def predict(request: Request) -> JSONResponse:
        answers = victim.answer(np.array((await request.json())["instances"], np.float32))
        assert answers.leaf is not None and answers.missing_feature is not None
        node = {"leaf": answers.leaf.tolist(), "asked": answers.missing_feature.tolist()}
        return JSONResponse({"predictions": answers.probabilities.tolist(), **node})

    return _watched(predict, kafka, kserve_v1())


def zoo_server(zoo: Zoo, kafka: KafkaSettings) -> WeirguardMiddleware:
    """KServe v2, by default any accuracy above 0.9; scores that are all 0 where no model meets the specification."""

    async def predict(request: Request) -> JSONResponse:
        document = await request.json()
        tensor, wanted = document["inputs"][0], document.get("parameters", {"accuracy": 0.9, "latency": 1_000})
        rows = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        specifications = np.tile(np.array([wanted["accuracy"], wanted["latency"]], np.float32), (len(rows), 1))
        said = zoo.answer(rows, specifications).probabilities
        answer = {"name": "scores", "datatype": "FP64", "shape": said.shape, "data": said.ravel().tolist()}
        return JSONResponse({"model_name": "zoo", "outputs": [answer]})

    return _watched(predict, kafka, kserve_v2("score"))


def _watched(predict: Any, kafka: KafkaSettings, extract: Extractor) -> WeirguardMiddleware:
    connection = Connection(",".join(kafka.servers), kafka.topics, kafka.client_arguments())
    return WeirguardMiddleware(
        Starlette(routes=[Route(PREDICT, predict, methods=["POST"])]),
        logger=QueryLogger(connection),
        gate=Gate(connection),
        target=route(PREDICT, "guarded", "1"),
        identity=Identity((Header(ACCOUNT_HEADER),)),
        extract=extract,
    )
