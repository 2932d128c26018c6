"""Reads the JSON of a body in any encoding, within a size limit, or says why it cannot.

Tensors may follow the JSON as raw bytes: the binary extension of the Open Inference Protocol.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from detector.contracts.errors import Unjudged

if TYPE_CHECKING:
    import numpy as np
else:
    from detector.contracts.lazy import np

_MOST_ENCODINGS = 3
_NO_ENCODING = {"", "identity"}
_MOST_DIGITS = 1_000
"""Whole numbers with more digits become infinite, as other readers take them."""
_ROW_FIELDS = ("instances", "inputs", "predictions", "outputs")
_DTYPES = {
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


class Body:
    """A copy of at most ``limit`` bytes of a body; if the body is longer, the copy is dropped.

    ``headers``: of the request or answer. ``elsewhere``: it was sent from a file.
    """

    def __init__(self, limit: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._limit = limit
        self._data = bytearray()
        self.headers = headers
        self.too_large = False
        self.elsewhere = False

    def add(self, chunk: bytes) -> None:
        if self.too_large or len(self._data) + len(chunk) > self._limit:
            self.too_large = True
            self._data = bytearray()
        else:
            self._data += chunk

    def document(self) -> Any:
        """Returns the body as JSON. Raises Unjudged."""
        if self.too_large:
            raise Unjudged("too-large", f"a body has over {self._limit} bytes")
        if self.elsewhere:
            raise Unjudged("unread", "an answer is sent from a file, past the middleware")
        if not self._data:
            raise Unjudged("empty", "a request or its answer has no body, or nobody read it")
        encodings = ",".join(header_values(self.headers, b"content-encoding"))
        head = "".join(header_values(self.headers, b"inference-header-content-length"))
        if head:
            return document_with_tensors(head, bytes(self._data), encodings, self._limit)
        return document(bytes(self._data), encodings, self._limit)

    def rows(self) -> int:
        """Returns how many rows the body seems to hold; 1 if that is unknown."""
        try:
            return estimate_rows(self.document())
        except Exception:  # noqa: BLE001  it is unreadable in whatever way
            return 1


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Returns the values of the ``headers`` with the lower-case ``name``."""
    size = len(name)
    return [bytes(value).decode("latin-1") for key, value in headers if len(key) == size and bytes(key).lower() == name]


def document(data: bytes, encodings: str, limit: int) -> Any:
    """Returns the JSON in ``data``, whose Content-Encoding is ``encodings`` (may be empty).

    Some servers ignore that header, so ``data`` that is plain JSON counts as well. Raises Unjudged: ``encoding``,
    ``too-large`` beyond ``limit`` bytes decoded, ``syntax``, or ``ambiguous`` if it can be read in two ways.
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
    raise Unjudged("ambiguous", "a body is JSON both encoded and decoded")


def _parse(data: bytes) -> Any:
    """Returns the JSON of ``data`` in any Unicode; other bytes are read as Latin-1, in which numbers are the same."""
    try:
        try:
            return _loads(data.decode(json.detect_encoding(data), "surrogatepass"))
        except UnicodeDecodeError:
            return _loads(data.decode("latin-1"))
    except RecursionError as error:
        raise Unjudged("syntax", "a body is nested too deep") from error
    except ValueError as error:
        raise Unjudged("syntax", f"a body is not JSON: {error}") from error


def _loads(text: str) -> Any:
    try:
        return _JSON.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python refuses a whole number of over 4,300 digits
        return json.loads(text, object_pairs_hook=_object, parse_int=_parse_int)


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object. Raises Unjudged if a name occurs twice: some readers take the first value, some the last."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Unjudged("ambiguous", "an object of a body has two values under one name")
    return members


_JSON = json.JSONDecoder(object_pairs_hook=_object)
"""Made once: ``json.loads`` makes another one with each call that has options."""


def estimate_rows(body: Any) -> int:
    """Returns how many rows the JSON ``body`` of a request or an answer seems to hold; 1 if that is unknown."""
    parts = [body.get(name) for name in _ROW_FIELDS] if isinstance(body, dict) else [body]
    return max(1, *map(_rows_of, parts))


def _rows_of(part: Any) -> int:
    """Returns the length of a list, of the longest of named columns, or the first dimension of tensors as far as their
    data goes."""
    if isinstance(part, dict):
        return max([0, *(len(column) for column in part.values() if isinstance(column, list))])
    if not isinstance(part, list):
        return 0
    tensors = [tensor for tensor in part if isinstance(tensor, dict) and hasattr(tensor.get("data"), "__len__")]
    return max(map(_rows_of_tensor, tensors)) if tensors else len(part)


def _rows_of_tensor(tensor: dict[str, Any]) -> int:
    shape, most = tensor.get("shape"), len(tensor["data"])
    first = shape[0] if isinstance(shape, list) and shape else most
    return min(first, most) if type(first) is int and first > 0 else most


def decode(data: bytes, encodings: str, limit: int) -> bytes:
    """Returns ``data`` without its ``encodings``, undone from the last one on. Raises Unjudged."""
    layers = [layer for layer in encodings.lower().replace(" ", "").split(",") if layer not in _NO_ENCODING]
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
    inflated = b""
    while data and len(inflated) <= limit:
        inflater = zlib.decompressobj(window)
        try:
            inflated += inflater.decompress(data, limit + 1 - len(inflated))
        except zlib.error as error:
            raise Unjudged("encoding", f"a body does not decode: {error}") from error
        if not inflater.eof and len(inflated) <= limit:
            raise Unjudged("encoding", "a compressed body is cut short")
        data = inflater.unused_data.lstrip(b"\0")
    return inflated


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
    body, raw = document(data[: int(head[:20])], "", limit), data[int(head[:20]) :]
    tensors = (body.get("inputs") or body.get("outputs")) if isinstance(body, dict) else None
    for tensor in tensors if isinstance(tensors, list) else ():
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(raw) or "data" in tensor:
            raise Unjudged("binary", f"a tensor claims {size!r:.40} of {len(raw)} raw bytes")
        tensor["data"] = tensor_array(tensor.get("datatype"), raw[:size])
        raw = raw[size:]
    return body


def tensor_array(datatype: Any, raw: bytes) -> Any:
    """Returns the raw bytes of a tensor of the Open Inference Protocol as an array (n,). Raises Unjudged."""
    if datatype not in _DTYPES:
        raise Unjudged("binary", f"raw tensors of type {datatype!r:.40} are not read here")
    try:
        return np.frombuffer(raw, _DTYPES[datatype])
    except ValueError as error:
        raise Unjudged("binary", f"a raw tensor of type {datatype} has {len(raw)} bytes") from error
