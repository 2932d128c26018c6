"""The encoding of arrays in sections of the state log: msgpack, each array as its dtype, shape and bytes. No pickle."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import StateLogError

Array = NDArray[Any]

Section = tuple[int, bytes]
"""(format version, bytes): the part of a state record of one signal, the engine or the ledger."""

Sections = dict[str, Section]

_MARK = "\x00array"
_KINDS = "biuf"
_SMALL_BYTES = 1 << 12
"""Larger arrays are packed without a copy."""


def pack(body: Any) -> bytes:
    """Returns ``body`` (dicts, lists, strings, numbers, None and numeric arrays) as msgpack bytes."""
    return msgspec.msgpack.encode(body, enc_hook=_encode_array)


def unpack(data: bytes) -> Any:
    """Returns what was passed to ``pack``; arrays are read-only views of copies. Raises StateLogError for other
    bytes."""
    try:
        return _restore(msgspec.msgpack.decode(data))
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise StateLogError(
            f"a section of {len(data)} bytes is not a packed state section ({error}); restore it from a good log"
        ) from error


def _encode_array(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in _KINDS:
        raise TypeError(f"state sections hold numbers, strings and numeric arrays, not {type(value).__name__}")
    little = value.astype(value.dtype.newbyteorder("<")) if value.dtype.str[0] == ">" else value
    if little.nbytes < _SMALL_BYTES or not little.flags.c_contiguous:
        return [_MARK, little.dtype.str, little.shape, little.tobytes()]
    return [_MARK, little.dtype.str, little.shape, little.data.cast("B")]


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _restore(item) for key, item in value.items()}
    if isinstance(value, list):
        if len(value) == 4 and isinstance(value[0], str) and value[0] == _MARK:
            return _array(value)
        return [_restore(item) for item in value] if _may_hold_arrays(value) else value
    return value


def _may_hold_arrays(items: list[Any]) -> bool:
    return bool(items) and isinstance(items[0], dict | list)


def _array(encoded: list[Any]) -> Array:
    dtype = np.dtype(encoded[1])
    if dtype.kind not in _KINDS:
        raise ValueError(f"arrays of dtype {dtype} do not belong in a state section")
    return np.frombuffer(encoded[3], dtype=dtype).reshape(encoded[2])
