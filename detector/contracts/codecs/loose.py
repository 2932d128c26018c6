"""Decodes value by value what the strict decoders refuse, and features and outputs in any form that people send.

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
from typing import TYPE_CHECKING, Any, cast

from detector.contracts.codecs.limits import DIMENSIONS, OUTPUTS
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import OutputKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MARK = b"\xef\xbb\xbf"
_SHOWN = 40
_DIGITS = 1_000
"""Whole numbers with more digits become infinite: they exceed float64, and Python refuses to parse them."""


def json_fields(value: bytes) -> dict[str, Any]:
    """Returns the fields of the JSON object in ``value``. Accepts NaN, Infinity, a byte order mark, and text that is
    not UTF-8 (as lone surrogates). Raises InvalidRecord if it is not an object."""
    text = value.removeprefix(_MARK).decode("utf-8", "surrogateescape")
    try:
        fields = json.loads(text, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise InvalidRecord("syntax", f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidRecord(
            "structure", f"the value is {shown(fields)}; send one JSON object with the fields of a query"
        )
    return fields


def _whole(digits: str) -> float:
    if len(digits) > _DIGITS:
        return -inf if digits.startswith("-") else inf
    return int(digits)


def shown(value: object) -> str:
    """Returns ``value`` in a form for error messages; None means absent."""
    if value is None:
        return "absent"
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, (str, bytes)):
        value = value[:_SHOWN]
    return repr(value)[: 2 * _SHOWN]


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


def named(value: object, field: str) -> str:
    """Returns ``text_of(value)``. Raises InvalidRecord if it is None."""
    text = text_of(value)
    if text is None:
        raise InvalidRecord("structure", f"{field} is {shown(value)}; send a text")
    return text


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


def vector_of(value: object, field: str) -> str | list[float | None]:
    """Returns base64 unchanged, and a list as numbers: NaN for null, 1 and 0 for booleans. Raises InvalidRecord with
    the position for anything else."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InvalidRecord("structure", f"{field} is {shown(value)}; send base64 of float32, or a list of numbers")
    numbers: list[float | None] = [float(entry) if isinstance(entry, bool) else number_of(entry) for entry in value]
    if None in numbers:
        at = numbers.index(None)
        advice = f"flatten {field}" if isinstance(value[at], list) else "send numbers, null for what is missing"
        raise InvalidRecord("structure", f"{field}[{at}] is {shown(value[at])}; {advice}")
    return numbers


def marks_of(value: object) -> list[bool] | None:
    """Returns marks of missing features (booleans, 0 or 1), or None if ``value`` is not a list of marks."""
    if not isinstance(value, list) or not all(mark is None or mark in (0, 1) for mark in value):
        return None
    return [bool(mark) for mark in value]


def whole_of(value: object) -> int | None:
    """Returns ``value`` as a whole number of 64 bits, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -(2**63) <= value < 2**63:
        return None
    return int(value) if value == int(value) else None


Value = float | str | None

_REMEMBERED = 1_024
"""Maximum number of name lists whose order is cached. Callers choose the names, so the cache must be bounded."""
_DEEPEST = 8
"""Nested objects up to this depth are features with names such as ``a.b``."""


@dataclass(frozen=True, slots=True)
class NamedRow:
    """``names`` in an order that depends only on the names, their ``values``, and the positions of ``texts``."""

    names: tuple[str, ...]
    values: tuple[Value, ...]
    texts: tuple[int, ...]


def named_row(given: Mapping[str, Any]) -> NamedRow:
    """Returns the features of an object, independent of the order of its keys. Raises InvalidRecord if there are too
    many, or if a value is not a feature."""
    if not given or any(isinstance(value, (dict, list)) for value in given.values()):
        given = dict(_flat(given, "", 0))
    _check_count(len(given))
    names, order = (_sorted if len(given) <= _REMEMBERED else _sorted.__wrapped__)(tuple(given))
    values = list(given.values())
    return _row(names, [values[at] for at in order])


def listed_row(given: Sequence[Any], missing: Sequence[bool] | None) -> NamedRow:
    """Returns the features of a list, named by position from 1. ``missing``: marks of missing features, or None."""
    _check_count(len(given))
    marks = missing if missing is not None and len(missing) == len(given) else [False] * len(given)
    names = tuple(map(str, range(1, len(given) + 1)))
    return _row(names, [None if mark else value for value, mark in zip(given, marks, strict=True)])


def columns_of(rows: Sequence[NamedRow]) -> dict[str, Any]:
    """Returns ``feature_names``, ``features`` and ``texts`` of rows with the same names. A feature that is a text in
    any row is a text in all rows."""
    import numpy as np

    names = rows[0].names
    at = sorted({position for row in rows for position in row.texts})
    if not at:
        return {"feature_names": names, "features": _floats([row.values for row in rows])}
    numbers = sorted(set(range(len(names))).difference(at))
    texts = np.empty((len(rows), len(at)), dtype=object)
    texts[:] = [[_as_text(row.values[place]) for place in at] for row in rows]
    return {
        "feature_names": tuple(names[place] for place in (*numbers, *at)),
        "features": _floats([[row.values[place] for place in numbers] for row in rows]),
        "texts": texts,
    }


def _floats(rows: Sequence[Sequence[Value]]) -> NDArray[np.float32]:
    import numpy as np

    with np.errstate(over="ignore"):
        return np.array(rows, dtype=np.float64).reshape(len(rows), -1).astype(np.float32)


def _as_text(value: Value) -> str | None:
    if isinstance(value, str):
        return value
    return None if value is None or isnan(value) else repr(value)


def _row(names: tuple[str, ...], given: Sequence[Any]) -> NamedRow:
    values = tuple([value if isinstance(value, str) else as_float(value) for value in given])
    return NamedRow(names, values, tuple([at for at, value in enumerate(values) if isinstance(value, str)]))


@lru_cache(maxsize=256)
def _sorted(keys: tuple[str, ...]) -> tuple[tuple[str, ...], list[int]]:
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return tuple(keys[at] for at in order), order


def _check_count(features: int) -> None:
    if not 0 < features <= DIMENSIONS:
        raise InvalidRecord("dimension", f"features have {features} entries; send 1 to {DIMENSIONS}")


def _flat(given: Any, name: str, depth: int) -> Any:
    """Yields names and values of all features in ``given``, nested ones included."""
    if not isinstance(given, (dict, list)):
        if given is not None and not isinstance(given, (int, float, str)):
            raise InvalidRecord("structure", f"features[{name!r:.80}] is {shown(given)}; send a number or a text")
        yield name, given
        return
    if depth > _DEEPEST:
        raise InvalidRecord("structure", f"features are nested deeper than {_DEEPEST} objects; flatten them")
    parts = given.items() if isinstance(given, dict) else enumerate(given, 1)
    for key, value in parts:
        yield from _flat(value, f"{name}.{key}" if name else str(key), depth + 1)


_LABELS = ("label", "class", "name")
_SCORES = ("score", "probability")
_ADVICE = (
    "send a number, a label, a list of numbers, an object of classes and their probabilities, or a list of "
    "{label, score}"
)


_FLOATS = frozenset({float, NoneType})


@dataclass(slots=True)
class LooseOutputs:
    """``values``: bytes of little-endian float32; ``names``: the class of each value."""

    kind: OutputKind
    values: bytes
    names: tuple[str, ...] | None = None


def outputs_of(given: Any, declared: OutputKind | None) -> LooseOutputs:
    """Returns the outputs in the value ``given`` of a record with the ``declared`` kind or None. Raises InvalidRecord
    if the value cannot be an output."""
    if given is None or declared == "none":
        return LooseOutputs("none", b"")
    kind = None if declared == "unstated" else declared
    if isinstance(given, (int, float)):
        return LooseOutputs(kind or "unstated", as_bytes([_number(given)]))
    if isinstance(given, str):
        return _of_text(given, kind)
    if isinstance(given, dict):
        if len(given) == 1 and isinstance(only := next(iter(given.values())), (list, dict)):
            return outputs_of(only, declared)
        return _of_entries([given], kind) if _is_entry(given) else _of_names(given, kind)
    if isinstance(given, list):
        return _of_list(given, kind)
    raise InvalidRecord("structure", f"outputs is {shown(given)}; {_ADVICE}")


def output_columns(rows: Sequence[LooseOutputs]) -> dict[str, Any]:
    """Returns ``outputs`` and ``output_names`` of rows of equal width, which all have names or all have none."""
    import numpy as np

    width = len(rows[0].values) // 4
    outputs = np.frombuffer(b"".join([row.values for row in rows]), dtype="<f4").reshape(len(rows), width)
    if rows[0].names is None:
        return {"outputs": outputs}
    names = np.empty((len(rows), width), dtype=object)
    names[:] = [row.names for row in rows]
    return {"outputs": outputs, "output_names": names}


def as_bytes(numbers: Sequence[float | None]) -> bytes:
    """Returns ``numbers`` as little-endian float32: NaN for None, infinity beyond float32."""
    try:
        return struct.pack(f"<{len(numbers)}f", *numbers)
    except (struct.error, OverflowError):
        import numpy as np

        with np.errstate(over="ignore"):
            return np.array(numbers, dtype=np.float64).astype("<f4").tobytes()


def _of_list(given: list[Any], kind: OutputKind | None) -> LooseOutputs:
    if len(given) > OUTPUTS:
        raise InvalidRecord("dimension", f"outputs have {len(given)} entries; send 1 to {OUTPUTS}")
    if len(given) == 1 and given[0] is not None:
        return outputs_of(given[0], kind)
    if given and all(isinstance(entry, dict) for entry in given):
        return _of_entries(given, kind)
    if not _FLOATS.issuperset(map(type, given)):
        numbers = [number_of(entry) for entry in given]
        if None in numbers:
            at = numbers.index(None)
            raise InvalidRecord("structure", f"outputs[{at}] is {shown(given[at])}; {_ADVICE}")
        given = numbers
    return LooseOutputs(kind or "probabilities", as_bytes(given))


def _of_text(given: str, kind: OutputKind | None) -> LooseOutputs:
    vector = _from_base64(given)
    if vector is not None and (kind != "label" or len(vector) == 4):
        return LooseOutputs(kind or ("probabilities" if len(vector) > 4 else "unstated"), vector)
    try:
        number = float(given)
    except ValueError:
        number = nan
    if isfinite(number):
        return LooseOutputs(kind or "unstated", as_bytes([number]))
    if kind in ("probabilities", "score"):
        raise InvalidRecord("encoding", f"outputs are {kind}, and neither padded base64 of float32 nor a number")
    return LooseOutputs("label", as_bytes([1.0]), (given,))


def _from_base64(text: str) -> bytes | None:
    """Returns the bytes of one float32 or more, or None if ``text`` is not base64 of float32."""
    try:
        data = a2b_base64(text, strict_mode=True)
    except (Error, ValueError):
        return None
    return data if data and len(data) % 4 == 0 else None


def _is_entry(given: dict[str, Any]) -> bool:
    """Returns whether this is an entry of a list of best classes, or a single number under a generic name."""
    return any(key in given for key in _LABELS) or (len(given) == 1 and next(iter(given)) in _SCORES)


def _of_entries(given: Sequence[dict[str, Any]], kind: OutputKind | None) -> LooseOutputs:
    labels = [text_of(_first(entry, _LABELS)) for entry in given]
    scores = [_first(entry, _SCORES) for entry in given]
    if len(given) == 1 and None in (labels[0], scores[0]):
        return outputs_of(labels[0] if scores[0] is None else scores[0], kind)
    if None in labels:
        raise InvalidRecord("structure", f"outputs[{labels.index(None)}] has no label; {_ADVICE}")
    return _of_names(dict(zip(cast("list[str]", labels), scores, strict=True)), kind)


def _first(entry: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _of_names(given: dict[str, Any], kind: OutputKind | None) -> LooseOutputs:
    if not 0 < len(given) <= OUTPUTS:
        raise InvalidRecord("dimension", f"outputs have {len(given)} entries; send 1 to {OUTPUTS}")
    for name, value in given.items():
        if number_of(value) is None:
            raise InvalidRecord("structure", f"outputs[{name!r:.80}] is {shown(value)}; {_ADVICE}")
    numbers = [_number(value) for value in given.values()]
    if kind == "label":
        return LooseOutputs("label", as_bytes([1.0]), (max(zip(numbers, given, strict=True))[1],))
    if kind is None and len(numbers) == 1 and not 0 <= numbers[0] <= 1:
        return LooseOutputs("unstated", as_bytes(numbers))
    return LooseOutputs(kind or "probabilities", as_bytes(numbers), tuple(given))


def _number(value: Any) -> float:
    number = number_of(value)
    return float(value) if number is None else number
