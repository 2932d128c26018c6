"""Reads row by row the calls of the logger that do not convert as a whole.

Rows may differ in width, cells may not be numbers, features may be named or texts, and outputs may be labels or
objects. One bad row must not hide the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detector.contracts.codecs.loose import (
    LooseOutputs,
    NamedRow,
    as_bytes,
    as_float,
    feature_columns,
    listed_row,
    named_row,
    output_columns,
    outputs_of,
)
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import OutputKind
from detector.serving.isolation import suppress_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    from detector.contracts.lazy import np

_MISSING_VALUES = {"NAType", "NaTType"}
"""Types of pandas' missing values, which are no numbers."""


@dataclass(frozen=True, slots=True)
class CallRows:
    """Rows of one layout: their ``positions`` in the call, ``features`` float32 (n, d) with ``feature_names``,
    ``outputs`` float32 (n, k) of ``output_kind``, and ``columns``: texts and names of classes, if any."""

    positions: list[int]
    features: NDArray[np.float32]
    feature_names: tuple[str, ...] | None
    output_kind: OutputKind
    outputs: NDArray[np.float32]
    columns: dict[str, Any]


def count_rows(features: Any) -> int:
    """Returns how many queries ``features`` hold: n for (n, d), 1 for (d,) and if it is unknown."""
    with suppress_errors():  # an object of the caller may raise anything
        shape = getattr(features, "shape", None)
        if shape is not None:
            return int(shape[0]) if len(shape) > 1 else 1
        if isinstance(features, Mapping):
            lengths = {len(values) if _is_vector(values) else 0 for values in features.values()}
            return lengths.pop() if len(lengths) == 1 and 0 not in lengths else 1
        return len(features) if _is_nested(features) else 1
    return 1


def is_loose(features: Any, outputs: Any) -> bool:
    """Returns whether names or texts are among ``features`` and ``outputs``, or a query has no outputs."""
    rows, answers = (given if isinstance(given, list | tuple) else [given] for given in (features, outputs))
    if any(answer is None for answer in answers):
        return True
    return any(map(_has_texts, (rows, answers, *rows, *answers)))


def rows_of_call(features: Any, outputs: Any, kind: OutputKind, loose: bool) -> list[CallRows]:
    """Returns the rows of a call by their layout; those without a layout cannot be used. Unless the call is ``loose``,
    all features and outputs must be numbers. Raises InvalidRecord when outputs and features do not belong together row
    by row."""
    queries = _queries(features, loose)
    single = len(queries) == 1 and not (_is_vector(outputs) and len(outputs) == 1 if loose else _is_nested(outputs))
    answered = [outputs] if single else _values(outputs, len(queries))
    if len(answered) != len(queries):
        raise InvalidRecord("length", f"outputs of {len(answered)} queries came with features of {len(queries)}")
    layouts: dict[tuple[object, ...], list[tuple[int, Any, LooseOutputs]]] = {}
    for position, (row, answer) in enumerate(zip(queries, answered, strict=True)):
        with suppress_errors():  # whatever a caller's object raises, it is no query
            if loose:
                values, results = _features(row), outputs_of(_plain(answer), None if kind == "probabilities" else kind)
            else:
                values = _numbers(row)
                results = LooseOutputs(kind, as_bytes(_numbers(answer if _is_vector(answer) else [answer])))
            columns = values.names if isinstance(values, NamedRow) else len(values)
            layout = columns, results.kind, len(results.values), results.names is None
            layouts.setdefault(layout, []).append((position, values, results))
    return [_joined(alike) for alike in layouts.values()]


def pick(values: Any, positions: Sequence[int], queries: int) -> Any:
    """Returns the entries of ``values`` at ``positions``, if it has one for each of ``queries``; else all of it."""
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != queries:
        return values
    return [values[position] for position in positions]


def _joined(alike: list[tuple[int, Any, LooseOutputs]]) -> CallRows:
    positions, rows, results = zip(*alike, strict=True)
    if isinstance(rows[0], NamedRow):
        columns = feature_columns(rows)
    else:
        with np.errstate(over="ignore"):
            columns = {"features": np.array(rows, dtype=np.float64).astype(np.float32)}
    columns |= output_columns(results)
    features, outputs, names = columns.pop("features"), columns.pop("outputs"), columns.pop("feature_names", None)
    return CallRows(list(positions), features, names, results[0].kind, outputs, columns)


def _has_texts(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return any(isinstance(value, str | Mapping) for value in values)
    return isinstance(values, str | Mapping)


def _is_vector(values: Any) -> bool:
    return hasattr(values, "__len__") and hasattr(values, "__getitem__") and not isinstance(values, str | bytes | dict)


def _is_nested(values: Any) -> bool:
    return _is_vector(values) and any(_is_vector(value) or isinstance(value, Mapping) for value in values)


def _queries(features: Any, loose: bool) -> list[Any]:
    """Returns one entry per query. A mapping is one query, or several if it holds a list for each name."""
    if isinstance(features, Mapping):
        columns = {name: _values(values) for name, values in features.items() if _is_vector(values)}
        if not columns or len(columns) < len(features) or len(set(map(len, columns.values()))) > 1:
            return [features]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if loose and not _is_vector(features):
        raise InvalidRecord("structure", f"features are {type(features).__name__}, neither a list nor an object")
    nested = _is_nested(features) or (not loose and len(getattr(features, "shape", ())) > 1)
    return list(features) if nested else [features]


def _values(values: Any, rows: int = 1) -> list[Any]:
    """Returns ``values`` as a list, with None for each of the ``rows`` if there are no values."""
    if values is None:
        return [None] * rows
    return list(values) if _is_vector(values) else [values]


def _features(row: Any) -> NamedRow | list[float]:
    if isinstance(row, str) or not len(row):
        raise ValueError("there are no features")
    if isinstance(row, Mapping):
        return named_row({str(name): _plain(value) for name, value in row.items()})
    values = [_plain(value) for value in row]
    if any(isinstance(value, str) for value in values):
        return listed_row(values, None)
    return [as_float(value) for value in values]


def _numbers(row: Any) -> list[float]:
    if not _is_vector(row) or not len(row):
        raise ValueError("there are no numbers")
    return [as_float(None if type(cell).__name__ in _MISSING_VALUES else cell) for cell in row]


def _plain(value: Any) -> Any:
    """Returns ``value`` as JSON has it: its number, or else its text."""
    if isinstance(value, str):
        return str(value)  # numpy has texts of its own
    if type(value).__name__ in _MISSING_VALUES:
        value = None
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if _is_vector(value):
        return [_plain(item) for item in value]
    with suppress_errors():
        return float(value)
    return str(value)
