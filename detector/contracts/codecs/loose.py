"""Decodes, value by value, what the strict decoders refuse: features and outputs in any form that people send.

It is slow, and runs only where strict decoding fails. A bad value must not lose its row, and a bad row must not lose
other rows.
"""

from __future__ import annotations

import json
import struct
from binascii import Error, a2b_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite, isnan, nan
from types import NoneType
from typing import TYPE_CHECKING, Any, cast, get_args

from detector.contracts.codecs.limits import DIMENSIONS, OUTPUTS
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import OutputKind

if TYPE_CHECKING:
    import msgspec
    import numpy as np
    from numpy.typing import NDArray
else:
    from detector.contracts.lazy import msgspec, np

Fields = dict[str, Any]
"""The values of a record by name, of any type."""

Value = float | str | None
"""A feature; None is missing."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHOWN_CHARACTERS = 40
_MOST_DIGITS = 1_000
"""Whole numbers with more digits become infinite: they exceed float64, and Python refuses to parse them."""
_LOOSE_DEPTH = 3
"""Levels of a msgpack value of which each entry is decoded by itself: a list, its maps and their values."""
_CACHED_NAMES = 1_024
"""Maximum number of names in a cached list. Callers choose the names, so the cache must be bounded."""
_DEEPEST_FEATURES = 8
"""Nested objects up to this depth are features with names such as ``a.b``."""

_LABELS = ("label", "class", "name")
_SCORES = ("score", "probability")
_ADVICE = (
    "send a number, a label, a list of numbers, an object of classes and their probabilities, or a list of "
    "{label, score}"
)
_FLOATS = frozenset({float, NoneType})


def json_fields(value: bytes) -> Fields:
    """Returns the fields of the JSON object in ``value``. Accepts NaN, Infinity, a byte order mark, and text that is
    not UTF-8 (as lone surrogates). Raises InvalidRecord if it is not an object."""
    text = value.removeprefix(_BYTE_ORDER_MARK).decode("utf-8", "surrogateescape")
    try:
        fields = json.loads(text, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        raise InvalidRecord("syntax", f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidRecord(
            "structure", f"the value is {shown(fields)}; send one JSON object with the fields of a query"
        )
    return fields


def _parse_int(digits: str) -> float:
    if len(digits) > _MOST_DIGITS:
        return -inf if digits.startswith("-") else inf
    return int(digits)


def msgpack_fields(value: bytes) -> Fields:
    """Returns the fields of the msgpack map in ``value``; a value that cannot be decoded is None. Accepts text that is
    not UTF-8 (as lone surrogates). Raises InvalidRecord if it is not a map of names to values."""
    try:
        fields = msgspec.msgpack.decode(value, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError as error:
        raise InvalidRecord("structure", f"not a map of columns: {str(error)[:200]}") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidRecord("syntax", f"not msgpack: {str(error)[:200]}") from None
    return {name: _decode_loosely(bytes(raw), _LOOSE_DEPTH) for name, raw in fields.items()}


def _decode_loosely(data: bytes, depth: int) -> Any:
    """Returns the msgpack value in ``data``, or None if it cannot be decoded even entry by entry."""
    undecodable = (msgspec.DecodeError, ValueError, RecursionError)
    try:
        return msgspec.msgpack.decode(data)
    except undecodable:
        first = data[0]
    header = 1 if 0xA0 <= first <= 0xBF else {0xD9: 2, 0xDA: 3, 0xDB: 5}.get(first)
    if header is not None:
        return data[header:].decode("utf-8", "surrogateescape")
    try:
        if depth and (0x80 <= first <= 0x8F or first in (0xDE, 0xDF)):
            raws = msgspec.msgpack.decode(data, type=dict[str, msgspec.Raw])
            return {name: _decode_loosely(bytes(raw), depth - 1) for name, raw in raws.items()}
        if depth:
            items = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
            return [_decode_loosely(bytes(raw), depth - 1) for raw in items]
    except undecodable:
        pass
    return None


def shown(value: object) -> str:
    """Returns ``value`` in a form for error messages; None means absent."""
    if value is None:
        return "absent"
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, (str, bytes)):
        value = value[:_SHOWN_CHARACTERS]
    return repr(value)[: 2 * _SHOWN_CHARACTERS]


def text_of(value: object) -> str | None:
    """Returns a text, or the digits of a number used as a name; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, float) or not isfinite(value):
        return None
    return str(int(value)) if value == int(value) else str(value)


def required_text(value: object, field: str) -> str:
    """Returns ``text_of(value)``. Raises InvalidRecord if it is None."""
    text = text_of(value)
    if text is None:
        raise InvalidRecord("structure", f"{field} is {shown(value)}; send a text")
    return text


def output_kind_of(kind: Any) -> OutputKind:
    """Returns ``kind`` if it is a kind of outputs. Raises InvalidRecord if not."""
    if kind not in get_args(OutputKind):
        raise InvalidRecord("structure", f"output_kind is {shown(kind)}; use {', '.join(get_args(OutputKind))}")
    return cast("OutputKind", kind)


def number_of(value: object) -> float | None:
    """Returns ``value`` as float64: NaN for None, infinity beyond float64; None if it is not a number."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        return None
    return as_float(value)


def as_float(value: Any) -> float:
    """Returns ``float(value)``, but NaN for None, and infinity for a whole number beyond float64.

    Raises the same errors as ``float``.
    """
    if value is None:
        return nan
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def whole_of(value: object) -> int | None:
    """Returns ``value`` as a whole number of 64 bits, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -(2**63) <= value < 2**63:
        return None
    return int(value) if value == int(value) else None


def marks_of(value: object) -> list[bool] | None:
    """Returns marks of missing features (booleans, 0 or 1), or None if ``value`` is not a list of marks."""
    if not isinstance(value, list) or not all(mark is None or mark in (0, 1) for mark in value):
        return None
    return [bool(mark) for mark in value]


def as_bytes(numbers: Sequence[float | None]) -> bytes:
    """Returns ``numbers`` as little-endian float32: NaN for None, infinity beyond float32."""
    try:
        return struct.pack(f"<{len(numbers)}f", *numbers)
    except (struct.error, OverflowError):
        with np.errstate(over="ignore"):
            return np.array(numbers, dtype=np.float64).astype("<f4").tobytes()


@dataclass(frozen=True, slots=True)
class NamedRow:
    """``names`` in an order that depends only on the names, their ``values``, and the positions of ``texts``."""

    names: tuple[str, ...]
    values: tuple[Value, ...]
    texts: tuple[int, ...]


def named_row(features: Mapping[str, Any]) -> NamedRow:
    """Returns the features of an object, independent of the order of its keys. Raises InvalidRecord if there are too
    many, or if a value is not a feature."""
    if not features or any(isinstance(value, (dict, list)) for value in features.values()):
        features = dict(_flatten(features, "", 0))
    _check_count("features", len(features), DIMENSIONS)
    names, order = (_sorted if len(features) <= _CACHED_NAMES else _sorted.__wrapped__)(tuple(features))
    values = list(features.values())
    return _row(names, [values[at] for at in order])


def listed_row(features: Sequence[Any], missing: Sequence[bool] | None) -> NamedRow:
    """Returns the features of a list, named by position from 1. ``missing``: marks of missing features, or None."""
    _check_count("features", len(features), DIMENSIONS)
    marks = missing if missing is not None and len(missing) == len(features) else [False] * len(features)
    names = tuple(map(str, range(1, len(features) + 1)))
    return _row(names, [None if mark else value for value, mark in zip(features, marks, strict=True)])


def feature_columns(rows: Sequence[NamedRow]) -> dict[str, Any]:
    """Returns ``feature_names``, ``features`` and ``texts`` of rows with the same names. A feature that is a text in
    any row is a text in all rows."""
    names = rows[0].names
    texts = sorted({position for row in rows for position in row.texts})
    if not texts:
        return {"feature_names": names, "features": _as_matrix([row.values for row in rows])}
    numbers = sorted(set(range(len(names))).difference(texts))
    return {
        "feature_names": tuple(names[at] for at in (*numbers, *texts)),
        "features": _as_matrix([[row.values[at] for at in numbers] for row in rows]),
        "texts": text_table([_as_text(row.values[at]) for row in rows for at in texts], len(texts)),
    }


def _as_matrix(rows: Sequence[Sequence[Value]]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.array(rows, dtype=np.float64).reshape(len(rows), -1).astype(np.float32)


def text_table(cells: Sequence[str | None], width: int) -> NDArray[np.object_]:
    """Returns ``cells``, row by row, as an array of objects (n, ``width``)."""
    table = np.empty(len(cells), dtype=object)
    table[:] = cells
    return table.reshape(-1, width)


def _as_text(value: Value) -> str | None:
    if isinstance(value, str):
        return value
    return None if value is None or isnan(value) else repr(value)


def _row(names: tuple[str, ...], features: Sequence[Any]) -> NamedRow:
    values = tuple([value if isinstance(value, str) else as_float(value) for value in features])
    return NamedRow(names, values, tuple([at for at, value in enumerate(values) if isinstance(value, str)]))


@lru_cache(maxsize=256)
def _sorted(keys: tuple[str, ...]) -> tuple[tuple[str, ...], list[int]]:
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return tuple(keys[at] for at in order), order


def _check_count(what: str, entries: int, limit: int) -> None:
    if not 0 < entries <= limit:
        raise InvalidRecord("dimension", f"{what} have {entries} entries; send 1 to {limit}")


def _flatten(features: Any, name: str, depth: int) -> Any:
    """Yields names and values of all ``features``, nested ones included."""
    if not isinstance(features, (dict, list)):
        if features is not None and not isinstance(features, (int, float, str)):
            raise InvalidRecord("structure", f"features[{name!r:.80}] is {shown(features)}; send a number or a text")
        yield name, features
        return
    if depth > _DEEPEST_FEATURES:
        raise InvalidRecord("structure", f"features are nested deeper than {_DEEPEST_FEATURES} objects; flatten them")
    parts = features.items() if isinstance(features, dict) else enumerate(features, 1)
    for key, value in parts:
        yield from _flatten(value, f"{name}.{key}" if name else str(key), depth + 1)


@dataclass(slots=True)
class LooseOutputs:
    """``values``: bytes of little-endian float32; ``names``: the class of each value."""

    kind: OutputKind
    values: bytes
    names: tuple[str, ...] | None = None


def outputs_of(outputs: Any, declared: OutputKind | None) -> LooseOutputs:
    """Returns the ``outputs`` of a record with the ``declared`` kind or None: a number, a label, a vector, a
    distribution by class name, or none. Raises InvalidRecord if they cannot be outputs."""
    if outputs is None or declared == "none":
        return LooseOutputs("none", b"")
    kind = None if declared == "unstated" else declared
    if isinstance(outputs, (int, float)):
        return LooseOutputs(kind or "unstated", as_bytes([as_float(outputs)]))
    if isinstance(outputs, str):
        return _outputs_of_text(outputs, kind)
    if isinstance(outputs, dict):
        if len(outputs) == 1 and isinstance(only := next(iter(outputs.values())), (list, dict)):
            return outputs_of(only, declared)
        return _outputs_of_entries([outputs], kind) if _is_entry(outputs) else _outputs_of_classes(outputs, kind)
    if isinstance(outputs, list):
        return _outputs_of_list(outputs, kind)
    raise InvalidRecord("structure", f"outputs is {shown(outputs)}; {_ADVICE}")


def output_columns(rows: Sequence[LooseOutputs]) -> dict[str, Any]:
    """Returns ``outputs`` and ``output_names`` of rows of equal width, which all have names or all have none."""
    width = len(rows[0].values) // 4
    outputs = np.frombuffer(b"".join([row.values for row in rows]), dtype="<f4").reshape(len(rows), width)
    if rows[0].names is None:
        return {"outputs": outputs}
    return {"outputs": outputs, "output_names": text_table([name for row in rows for name in row.names or ()], width)}


def _outputs_of_list(outputs: list[Any], kind: OutputKind | None) -> LooseOutputs:
    if len(outputs) > OUTPUTS:
        raise InvalidRecord("dimension", f"outputs have {len(outputs)} entries; send 1 to {OUTPUTS}")
    if len(outputs) == 1 and outputs[0] is not None:
        return outputs_of(outputs[0], kind)
    if outputs and all(isinstance(entry, dict) for entry in outputs):
        return _outputs_of_entries(outputs, kind)
    if not _FLOATS.issuperset(map(type, outputs)):
        numbers = [number_of(entry) for entry in outputs]
        if None in numbers:
            at = numbers.index(None)
            raise InvalidRecord("structure", f"outputs[{at}] is {shown(outputs[at])}; {_ADVICE}")
        outputs = numbers
    return LooseOutputs(kind or "probabilities", as_bytes(outputs))


def _outputs_of_text(outputs: str, kind: OutputKind | None) -> LooseOutputs:
    vector = _from_base64(outputs)
    if vector is not None and (kind != "label" or len(vector) == 4):
        return LooseOutputs(kind or ("probabilities" if len(vector) > 4 else "unstated"), vector)
    try:
        number = float(outputs)
    except ValueError:
        number = nan
    if isfinite(number):
        return LooseOutputs(kind or "unstated", as_bytes([number]))
    if kind in ("probabilities", "score"):
        raise InvalidRecord("encoding", f"outputs are {kind}, and neither padded base64 of float32 nor a number")
    return LooseOutputs("label", as_bytes([1.0]), (outputs,))


def _from_base64(text: str) -> bytes | None:
    """Returns the bytes of one float32 or more, or None if ``text`` is not base64 of float32."""
    try:
        data = a2b_base64(text, strict_mode=True)
    except (Error, ValueError):
        return None
    return data if data and len(data) % 4 == 0 else None


def _is_entry(outputs: dict[str, Any]) -> bool:
    """Returns whether this is an entry of a list of best classes, or a single number under a generic name."""
    return any(key in outputs for key in _LABELS) or (len(outputs) == 1 and next(iter(outputs)) in _SCORES)


def _outputs_of_entries(entries: Sequence[dict[str, Any]], kind: OutputKind | None) -> LooseOutputs:
    labels = [text_of(_first(entry, _LABELS)) for entry in entries]
    scores = [_first(entry, _SCORES) for entry in entries]
    if len(entries) == 1 and None in (labels[0], scores[0]):
        return outputs_of(labels[0] if scores[0] is None else scores[0], kind)
    if None in labels:
        raise InvalidRecord("structure", f"outputs[{labels.index(None)}] has no label; {_ADVICE}")
    return _outputs_of_classes(dict(zip(cast("list[str]", labels), scores, strict=True)), kind)


def _first(entry: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _outputs_of_classes(outputs: dict[str, Any], kind: OutputKind | None) -> LooseOutputs:
    _check_count("outputs", len(outputs), OUTPUTS)
    numbers = []
    for name, value in outputs.items():
        number = number_of(value)
        if number is None:
            raise InvalidRecord("structure", f"outputs[{name!r:.80}] is {shown(value)}; {_ADVICE}")
        numbers.append(number)
    if kind == "label":
        return LooseOutputs("label", as_bytes([1.0]), (max(zip(numbers, outputs, strict=True))[1],))
    if kind is None and len(numbers) == 1 and not 0 <= numbers[0] <= 1:
        return LooseOutputs("unstated", as_bytes(numbers))
    return LooseOutputs(kind or "probabilities", as_bytes(numbers), tuple(outputs))
