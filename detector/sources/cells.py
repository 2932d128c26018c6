"""Converts cells of a table to numbers and texts. A bad cell affects its own row only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.loose import as_float, marks_of, shown, text_of, whole_of
from detector.contracts.errors import ConfigurationError
from detector.sources.kinds import as_text, is_list, is_text, values_in

_LISTS = {"features": "float32", "outputs": "float32", "missing": "bool", "specification": "float32"}
_NUMBERS = {"hardness": "float32", "leaf": "int64"}
_VECTORS = ("features", "outputs")
_FLAGS = {"true": 1.0, "false": 0.0}


@dataclass(slots=True)
class TablePart:
    """Rows of a table: ``columns``, Arrow arrays by name, and the ``places`` int64 (n,) of the rows in the file at
    ``path``. ``faults``: reasons of refusal by row. ``repaired``: as in ``DecodedRun``."""

    path: Path
    columns: dict[str, Any]
    places: NDArray[np.int64]
    faults: dict[int, tuple[str, str]] = field(default_factory=dict)
    repaired: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.places)

    def refuse(self, row: int, detail: str, reason: str = "structure") -> None:
        """Refuses ``row``; the first reason counts."""
        self.faults.setdefault(row, (reason, detail))


@dataclass(frozen=True, slots=True)
class Lists:
    """A flat column of lists: list i is ``values[offsets[i] : offsets[i + 1]]``; a null is empty."""

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> Lists:
        """Returns the lists of ``rows``."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Lists(self.values[places], offsets)

    def matrix(self, first: int, stop: int) -> NDArray[Any]:
        """Returns lists ``first`` to ``stop``, all of one length, as rows of a matrix."""
        width = int(self.lengths[first])
        return self.values[self.offsets[first] : self.offsets[stop]].reshape(stop - first, width)


def texts_of(column: Any) -> list[str | None]:
    """Returns the texts of a column of texts, or of numbers used as names."""
    import pyarrow as pa

    if any(test(column.type) for test in (pa.types.is_integer, pa.types.is_decimal, pa.types.is_dictionary)):
        column = column.cast("string")
    values = values_in(column)
    if pa.types.is_boolean(column.type):
        values = [value and str(value).lower() for value in values]
    return [text_of(value) for value in values]


def numbers_of(part: TablePart, name: str, column: Any) -> NDArray[np.float64]:
    """Returns ``column``, of numbers, flags, times or texts of these, as float64 (n,), NaN for null."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_temporal(column.type):
        return seconds(column)
    if is_text(column.type):
        return _numbers_in(part, name, as_text(column))
    return np.asarray(column.cast("float64", safe=False).to_numpy(zero_copy_only=False), np.float64)


def _numbers_in(part: TablePart, name: str, texts: Any) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return np.asarray(pc.utf8_trim_whitespace(texts).cast("float64").to_numpy(zero_copy_only=False), np.float64)
    except pa.ArrowInvalid:
        found = np.full(len(texts), nan)
    for row, text in enumerate(map(text_of, values_in(texts))):
        number = None if text is None else _FLAGS.get(text.strip().lower(), _number(text))
        if number is not None:
            found[row] = number
        elif text is not None:
            part.refuse(row, f"{name} is {shown(text)}, which is no number")
    return found


def lists_of(part: TablePart, role: str, column: Any) -> tuple[Lists, NDArray[np.bool_]]:
    """Returns the lists in ``column`` for ``role``, and which of its cells are set, bool (n,). Raises
    ConfigurationError for other types."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_null(kind):
        column = kind = pa.nulls(len(column), pa.list_(pa.float64()))
        kind = column.type
    if not is_list(kind):
        raise ConfigurationError(f"{part.path}: the column {role} is {kind}; it must be a list of {_LISTS[role]}")
    inner = kind.value_type
    if pa.types.is_nested(inner):
        raise ConfigurationError(f"{part.path}: the column {role} is {kind}; flatten {role} into one list a row")
    if not pa.types.is_primitive(inner) or pa.types.is_temporal(inner):
        kind = pa.list_(pa.bool_() if role == "missing" else pa.float64())
        column = _converted(part, role, column, kind, marks_of if role == "missing" else _numbers)
    elif not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        column = column.cast(pa.large_list(inner))
    return _flat(role, column), is_set(column)


def optional_numbers(part: TablePart, role: str, column: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Returns ``column`` for the optional number ``role``, and which of its cells are set, bool (n,)."""
    import pyarrow as pa

    try:
        cast_ = column.cast(_NUMBERS[role])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        whole = role == "leaf"
        column = _converted(part, role, column, pa.int64() if whole else pa.float64(), _leaf if whole else _number)
        cast_ = column.cast(_NUMBERS[role])
    return cast_.fill_null(0).to_numpy(zero_copy_only=False), is_set(cast_)


def values_of(part: TablePart, name: str, column: Any) -> list[Any]:
    """Returns ``column`` as JSON values: maps become objects, and texts are parsed as JSON."""
    if is_text(column.type):
        return [_parsed(part, row, name, text) for row, text in enumerate(texts_of(column))]
    return [_as_json(value) for value in column.to_pylist(maps_as_pydicts="lossy")]


def is_set(column: Any) -> NDArray[np.bool_]:
    """Returns which cells of ``column`` are not null, bool (n,)."""
    return cast("NDArray[np.bool_]", column.is_valid().to_numpy(zero_copy_only=False))


def _parsed(part: TablePart, row: int, name: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        part.refuse(row, f"{name} is {shown(text)}, which is not JSON")
        return None


def _as_json(value: Any) -> Any:
    """Returns ``value`` as JSON types; decimals become numbers."""
    if isinstance(value, dict):
        return {str(name): _as_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    return value if value is None or isinstance(value, (str, bool, int, float)) else _number(value)


def _numbers(values: list[Any]) -> list[float | None]:
    """Returns ``values``, which may be texts of numbers, as numbers. Raises ValueError for the first other value."""
    numbers: list[float | None] = []
    for at, value in enumerate(values):
        number = _number(value)
        if number is None:
            raise ValueError(f"[{at}] is {shown(value)}, which is no number")
        numbers.append(number)
    return numbers


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else as_float(value)
    except (ValueError, TypeError):
        return None


def _leaf(value: Any) -> int | None:
    return whole_of(_number(value) if isinstance(value, str) else value)


def _converted(part: TablePart, role: str, column: Any, kind: Any, of: Callable[[Any], Any]) -> Any:
    """Converts ``column`` to ``kind`` cell by cell. A bad cell becomes null, and a fault if the row needs it."""
    import pyarrow as pa

    converted: list[Any] = []
    for row, scalar in enumerate(column):
        converted.append(None)
        try:
            value = scalar.as_py()
            converted[-1] = None if value is None else of(value)
            if value is None or converted[-1] is not None:
                continue
        except ValueError as error:
            if role in _VECTORS:
                detail = " hold text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
                part.refuse(row, f"{role}{detail}")
                continue
        part.repaired["column"] += 1
    return pa.array(converted, kind)


def _flat(role: str, column: Any) -> Lists:
    """Returns flat lists; null values become NaN (numbers) or false (marks)."""
    import pyarrow.compute as pc

    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    values = column.flatten().cast(_LISTS[role], safe=False)
    values = values.fill_null(False) if role == "missing" else values
    return Lists(values.to_numpy(zero_copy_only=False), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SIZES = ((1e11, 1e14, 1e3), (1e14, 1e17, 1e6), (1e17, 1e20, 1e9))
"""(low, high, units per second): numbers from low to below high are milliseconds, microseconds and nanoseconds."""


def seconds(column: Any) -> NDArray[np.float64]:
    """Returns ``column``, an Arrow array of timestamps, dates, numbers or texts, as seconds UTC, float64 (n,). Null and
    values that are not a time become NaN. Times without a zone are UTC. The size of numbers tells seconds,
    milliseconds, microseconds and nanoseconds apart."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(column.type):
        return _of_ticks(column, _PER_SECOND[column.type.unit])
    if is_text(column.type):
        return _of_texts(as_text(column))
    try:
        return by_size(_floats(column))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.full(len(column), nan)


def by_size(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """``numbers`` in seconds, which of their unit is told by how large they are."""
    for least, most, unit in _SIZES:
        numbers = np.where((numbers >= least) & (numbers < most), numbers / unit, numbers)
    return numbers


def moment(value: object) -> float | None:
    """A single ``value`` as a number of seconds UTC; None where it is none."""
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return _by_size(as_float(value))


def _by_size(number: float) -> float:
    return next((number / unit for least, most, unit in _SIZES if least <= number < most), number)


def _of_ticks(column: Any, per_second: int) -> NDArray[np.float64]:
    """Whole seconds and their parts apart, or nanoseconds would be rounded twice."""
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    whole, parts = np.divmod(column.cast("int64").fill_null(0).to_numpy(zero_copy_only=False), per_second)
    return np.where(valid, whole + parts / per_second, nan)


def _floats(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.cast("float64", safe=False).to_numpy(zero_copy_only=False), np.float64)


def _of_texts(texts: Any) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.float64()):
        try:
            return seconds(pc.utf8_trim_whitespace(texts).cast(kind))
        except pa.ArrowInvalid:
            continue
    found = (moment(text_of(text)) for text in values_in(texts))
    return np.array([nan if one is None else one for one in found])


def _of_text(text: str) -> float | None:
    try:
        return _by_size(float(text))
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
