"""Tensors as raw bytes behind the JSON of a body: the binary extension of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

from detector.contracts.errors import Unjudged
from detector.serving.bodies import decode, document

_TYPES = {
    "BOOL": "u1",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


def document_with_tensors(head: str, data: bytes, encodings: str, limit: int) -> Any:
    """Returns the JSON in the first ``head`` bytes of ``data``, each tensor with its raw bytes as an array under
    ``data``.

    A server without the extension reads the whole body as JSON; if that works, it counts. Raises Unjudged.
    """
    try:
        return document(data, encodings, limit)
    except Unjudged as error:
        if error.reason != "syntax":
            raise
    data = decode(data, encodings, limit)
    if not (head.isascii() and head.isdecimal()):
        raise Unjudged("binary", f"Inference-Header-Content-Length is {head!r:.40}")
    found = document(data[: int(head[:20])], "", limit)
    _fill(found, data[int(head[:20]) :])
    return found


def _fill(found: Any, raw: bytes) -> None:
    tensors = (found.get("inputs") or found.get("outputs")) if isinstance(found, dict) else None
    for tensor in tensors if isinstance(tensors, list) else ():
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(raw) or "data" in tensor:
            raise Unjudged("binary", f"a tensor claims {size!r:.40} of {len(raw)} raw bytes")
        tensor["data"] = _numbers(tensor.get("datatype"), raw[:size])
        raw = raw[size:]


def _numbers(datatype: Any, raw: bytes) -> Any:
    import numpy as np

    if datatype not in _TYPES:
        raise Unjudged("binary", f"raw tensors of type {datatype!r:.40} are not read here")
    try:
        return np.frombuffer(raw, _TYPES[datatype])
    except ValueError as error:
        raise Unjudged("binary", f"a raw tensor of type {datatype} has {len(raw)} bytes") from error
