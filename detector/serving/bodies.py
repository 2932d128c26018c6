"""The JSON of a body in any encoding, within a size limit, or the reason why there is none.

Tensors may stand as raw bytes behind the JSON: the binary extension of the Open Inference Protocol.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

from detector.contracts.errors import Unjudged

_MOST_ENCODINGS = 3
_PLAIN = {"", "identity"}


def document(data: bytes, encodings: str, limit: int) -> Any:
    """Returns the JSON in ``data``, whose Content-Encoding is ``encodings`` (may be empty).

    Some servers ignore that header, so ``data`` that is plain JSON counts as well. Raises Unjudged: ``encoding``,
    ``too-large`` beyond ``limit`` bytes decoded, ``syntax``, or ``ambiguous`` where it can be read in two ways.
    """
    if not encodings:
        return _parse(data)
    try:
        plain = _parse(data)
    except Unjudged:
        return _parse(decode(data, encodings, limit))
    try:
        decoded = decode(data, encodings, limit)
    except Unjudged as error:
        if error.reason == "encoding":
            return plain
        raise
    if decoded is data:
        return plain
    raise Unjudged("ambiguous", "a body is JSON both as it stands and decoded")


def _parse(data: bytes) -> Any:
    """Returns the JSON of ``data`` in any Unicode; other bytes are read as Latin-1, in which numbers are the same."""
    try:
        try:
            return _loads(data)
        except UnicodeDecodeError:
            return _loads(data.decode("latin-1"))
    except Unjudged:
        raise
    except RecursionError as error:
        raise Unjudged("syntax", "a body is nested too deep") from error
    except ValueError as error:
        raise Unjudged("syntax", f"a body is not JSON: {error}") from error


def _loads(data: bytes | str) -> Any:
    text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "surrogatepass")
    try:
        return _JSON.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of over 4,300 digits, which other readers take for infinite
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 1_000 else float(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object. Raises Unjudged if a name occurs twice: some readers take the first value, some the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unjudged("ambiguous", "an object of a body has two values under one name")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_object)
"""Made once: ``json.loads`` makes another one with each call that says more than the text."""


def rows_told(found: Any) -> int:
    """Returns how many rows the JSON ``found``, of a request or an answer, seems to hold; 1 where that is unknown."""
    parts = [found.get(name) for name in _ROWS] if isinstance(found, dict) else [found]
    return max(1, *map(_rows_of, parts))


_ROWS = ("instances", "inputs", "predictions", "outputs")


def _rows_of(part: Any) -> int:
    """Returns the length of a list, of the longest of named columns, or the first dimension of tensors as far as their
    data goes."""
    if isinstance(part, dict):
        return max([0, *(len(column) for column in part.values() if isinstance(column, list))])
    if not isinstance(part, list):
        return 0
    tensors = [one for one in part if isinstance(one, dict) and hasattr(one.get("data"), "__len__")]
    return max(map(_rows_of_tensor, tensors)) if tensors else len(part)


def _rows_of_tensor(tensor: dict[str, Any]) -> int:
    shape, most = tensor.get("shape"), len(tensor["data"])
    first = shape[0] if isinstance(shape, list) and shape else most
    return min(first, most) if type(first) is int and first > 0 else most


def decode(data: bytes, encodings: str, limit: int) -> bytes:
    """Returns ``data`` without its ``encodings``, undone from the last one on. Raises Unjudged."""
    layers = [layer for layer in encodings.lower().replace(" ", "").split(",") if layer not in _PLAIN]
    if len(layers) > _MOST_ENCODINGS:
        raise Unjudged("encoding", f"a body has {len(layers)} encodings; at most {_MOST_ENCODINGS} are read")
    for layer in reversed(layers):
        decoder = _DECODERS.get(layer)
        if decoder is None:
            raise Unjudged("encoding", f"a body has the encoding {layer!r:.40}, which is not read here")
        data = decoder(data, limit)
        if len(data) > limit:
            raise Unjudged("too-large", f"a body has over {limit} bytes when it is decoded")
    return data


def _gzip(data: bytes, limit: int) -> bytes:
    return _inflate(data, limit, 31)


def _deflate(data: bytes, limit: int) -> bytes:
    """Decodes deflate with or without the frame of zlib: both are in use under this name."""
    try:
        return _inflate(data, limit, zlib.MAX_WBITS)
    except Unjudged:
        return _inflate(data, limit, -zlib.MAX_WBITS)


def _inflate(data: bytes, limit: int, window: int) -> bytes:
    """Returns at most ``limit`` + 1 bytes of all members in ``data``."""
    found = b""
    while data and len(found) <= limit:
        inflater = zlib.decompressobj(window)
        try:
            found += inflater.decompress(data, limit + 1 - len(found))
        except zlib.error as error:
            raise Unjudged("encoding", f"a body does not decode: {error}") from error
        if not inflater.eof and len(found) <= limit:
            raise Unjudged("encoding", "a body ends before what it was encoded from")
        data = inflater.unused_data.lstrip(b"\0")
    return found


def _with_cramjam(name: str) -> Callable[[bytes, int], bytes]:
    def decode(data: bytes, limit: int) -> bytes:
        try:
            import cramjam
        except ImportError as error:
            raise Unjudged("encoding", f"bodies encoded with {name} are read where cramjam is installed") from error
        room = bytearray(limit + 1)
        try:
            return bytes(room[: getattr(cramjam, name).decompress_into(data, room)])
        except cramjam.DecompressionError as error:
            raise Unjudged("encoding", f"a body does not decode within {limit} bytes: {error}") from error

    return decode


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _with_cramjam("brotli"),
    "zstd": _with_cramjam("zstd"),
}


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
