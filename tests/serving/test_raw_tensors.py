"""Tensors as raw bytes behind the JSON, as the binary extension of the Open Inference Protocol sends them."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from detector.serving.asgi import kserve_routes
from detector.serving.bodies import _DTYPES
from detector.serving.extractors import kserve_v2
from tests.serving.stage import Guarded

PATH = "/v2/models/digits/infer"
HEAD = "inference-header-content-length"
OUTPUTS = [{"name": "p", "shape": [2, 1], "datatype": "FP32", "data": [0.25, 0.75]}]


def _tensor(size: Any, datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2, 2], "datatype": datatype, "parameters": {"binary_data_size": size}, **more}


def _body(raw: bytes, *tensors: dict[str, Any], what: str = "inputs") -> tuple[bytes, dict[str, str]]:
    text = json.dumps({what: list(tensors)}).encode()
    return text + raw, {HEAD: str(len(text))}


def _ask(content: bytes, headers: dict[str, str], answer: Response | None = None) -> Guarded:
    async def infer(request: Request) -> Response:
        await request.body()
        return answer or JSONResponse({"outputs": OUTPUTS})

    app = Starlette(routes=[Route(PATH, infer, methods=["POST"])])
    guarded = Guarded(app, target=kserve_routes(), extract=kserve_v2())
    assert guarded.ask(PATH, content=content, headers=headers).status_code == 200
    return guarded


@pytest.mark.parametrize("datatype", _DTYPES)
def test_raw_tensors_of_every_type_of_numbers_are_read(datatype: str) -> None:
    numbers = np.array([[1, 0], [1, 1]], _DTYPES[datatype])
    guarded = _ask(*_body(numbers.tobytes(), _tensor(numbers.nbytes, datatype)))
    assert [rows.features.tolist() for rows in guarded.logger.kept()] == [[[1, 0], [1, 1]]]


def test_several_tensors_and_an_encoding() -> None:
    numbers = np.arange(8, dtype="<f4")
    plain = {"name": "y", "shape": [2], "datatype": "FP32", "data": [8, 9]}
    content, headers = _body(numbers.tobytes(), _tensor(16), plain, _tensor(16, name="z"))
    guarded = _ask(gzip.compress(content, mtime=0), headers | {"content-encoding": "gzip"})
    assert [rows.features.tolist() for rows in guarded.logger.kept()] == [[[0, 1, 8, 4, 5], [2, 3, 9, 6, 7]]]


def test_raw_answers_are_read() -> None:
    content, headers = _body(np.array([0.25, 0.75], "<f4").tobytes(), _tensor(8, shape=[2, 1]), what="outputs")
    request = json.dumps({"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}]}).encode()
    guarded = _ask(request, {}, Response(content, headers=headers))
    assert [rows.outputs.tolist() for rows in guarded.logger.kept()] == [[[0.25], [0.75]]]


RAW = np.arange(4, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("content", "headers", "reason"),
    [
        (*_body(RAW, _tensor(17)), "binary"),
        (*_body(RAW, _tensor(-1)), "binary"),
        (*_body(RAW, _tensor("16")), "binary"),
        (*_body(RAW, _tensor(15)), "binary"),
        (*_body(RAW, _tensor(16, "BF16")), "binary"),
        (*_body(RAW, _tensor(16, "BYTES")), "binary"),
        (*_body(RAW, _tensor(16, data=[1, 2, 3, 4])), "binary"),
        (_body(RAW, _tensor(16))[0], {HEAD: "x"}, "binary"),
        (_body(RAW, _tensor(16))[0], {HEAD: "9" * 30}, "syntax"),
        (_body(RAW, _tensor(16))[0], {HEAD: "5"}, "syntax"),
        (_body(RAW, _tensor(16))[0], {}, "syntax"),
        (b"[1]" + RAW, {HEAD: "3"}, "features"),
        (b'{"inputs": 7}' + RAW, {HEAD: "13"}, "features"),
        (b'{"inputs": [7]}' + RAW, {HEAD: "15"}, "features"),
    ],
)
def test_what_cannot_be_read_is_counted(content: bytes, headers: dict[str, str], reason: str) -> None:
    assert _ask(content, headers).accounts == (0, {reason: 2})


def test_a_tensor_of_too_few_bytes_is_counted_with_its_rows() -> None:
    assert _ask(*_body(RAW, _tensor(12))).accounts == (0, {"features": 2})
