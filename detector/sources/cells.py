"""Converts columns of a table to numbers, texts, lists and times. A bad cell affects its own row only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.loose import as_float, marks_of, shown, text_of, whole_of
from detector.contracts.errors import ConfigurationError
from detector.sources.kinds import as_text, is_list, is_text, values_in
from detector.sources.mapping import VECTORS

_LISTS = {"features": "float32", "outputs": "float32", "missing": "bool", "specification": "float32"}
_NUMBERS = {"hardness": "float32", "leaf": "int64"}
_FLAGS = {"true": 1.0, "false": 0.0}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SIZES = ((1e11, 1e14, 1e3), (1e14, 1e17, 1e6), (1e17, 1e20, 1e9))
"""(low, high, units per second): numbers from low to below high are milliseconds, microseconds and nanoseconds."""


@dataclass(slots=True)
class TablePart:
    """Rows of a table: ``columns``, Arrow arrays by name, and the ``file_rows`` int64 (n,) of the rows in the file at
    ``path``. ``faults``: reasons of refusal by row. ``repaired``: as in ``DecodedRun``."""

    path: Path
    columns: dict[str, Any]
    file_rows: NDArray[np.int64]
    faults: dict[int, tuple[str, str]] = field(default_factory=dict)
    repaired: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.file_rows)

    def refuse(self, row: int, detail: str, reason: str = "structure") -> None:
        """Refuses ``row``; the first reason counts."""
        self.faults.setdefault(row, (reason, detail))


@dataclass(frozen=True, slots=True)
class ListColumn:
    """A flat column of lists: list i is ``values[offsets[i] : offsets[i + 1]]``; a null is empty."""

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> ListColumn:
        """Returns the lists of ``rows``."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return ListColumn(self.values[index], offsets)

    def matrix(self, first: int, stop: int) -> NDArray[Any]:
        """Returns lists ``first`` to ``stop``, all of one length, as rows of a matrix."""
        width = int(self.lengths[first])
        return self.values[self.offsets[first] : self.offsets[stop]].reshape(stop - first, width)


def is_set(column: Any) -> NDArray[np.bool_]:
    """Returns which cells of ``column`` are not null, bool (n,)."""
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)


def texts_of(column: Any) -> NDArray[np.object_]:
    """Returns the texts of a column of texts, or of numbers used as names, object (n,); None for other values."""
    import pyarrow as pa

    if any(test(column.type) for test in (pa.types.is_integer, pa.types.is_decimal, pa.types.is_dictionary)):
        column = column.cast("string")
    values = values_in(column)
    if pa.types.is_boolean(column.type):
        values = [value and str(value).lower() for value in values]
    return np.array([text_of(value) for value in values], object)


def numbers_of(part: TablePart, name: str, column: Any) -> NDArray[np.float64]:
    """Returns ``column``, of numbers, flags, times or texts of these, as float64 (n,), NaN for null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_temporal(column.type):
        return times_of(column)
    if not is_text(column.type):
        return _floats(column)
    try:
        return _floats(pc.utf8_trim_whitespace(as_text(column)))
    except pa.ArrowInvalid:
        numbers = np.full(len(column), nan)
    for row, text in enumerate(texts_of(as_text(column))):
        number = None if text is None else _FLAGS.get(text.strip().lower(), _number(text))
        if number is not None:
            numbers[row] = number
        elif text is not None:
            part.refuse(row, f"{name} is {shown(text)}, which is no number")
    return numbers


def lists_of(part: TablePart, role: str, column: Any) -> tuple[ListColumn, NDArray[np.bool_]]:
    """Returns the lists in ``column`` for ``role``, and which of its cells are set, bool (n,). Null values become NaN
    (numbers) or false (marks). Raises ConfigurationError for other types."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type):
        column = pa.nulls(len(column), pa.list_(pa.float64()))
    kind = column.type
    if not is_list(kind):
        raise ConfigurationError(f"{part.path}: the column {role} is {kind}; it must be a list of {_LISTS[role]}")
    inner = kind.value_type
    if pa.types.is_nested(inner):
        raise ConfigurationError(f"{part.path}: the column {role} is {kind}; flatten {role} into one list a row")
    if not pa.types.is_primitive(inner) or pa.types.is_temporal(inner):
        convert, inner = (marks_of, pa.bool_()) if role == "missing" else (_numbers, pa.float64())
        column = _converted(part, role, column, pa.list_(inner), convert)
    elif not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        column = column.cast(pa.large_list(inner))
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    values = column.flatten().cast(_LISTS[role], safe=False)
    values = values.fill_null(False) if role == "missing" else values
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return ListColumn(values.to_numpy(zero_copy_only=False), offsets), is_set(column)


def optional_numbers(part: TablePart, role: str, column: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Returns ``column`` for the optional number ``role``, and which of its cells are set, bool (n,)."""
    import pyarrow as pa

    try:
        numbers = column.cast(_NUMBERS[role])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        kind, convert = (pa.int64(), _leaf) if role == "leaf" else (pa.float64(), _number)
        numbers = _converted(part, role, column, kind, convert).cast(_NUMBERS[role])
    return numbers.fill_null(0).to_numpy(zero_copy_only=False), is_set(numbers)


def values_of(part: TablePart, name: str, column: Any) -> list[Any]:
    """Returns ``column`` as JSON values: maps become objects, and texts are parsed as JSON."""
    if not is_text(column.type):
        return [_as_json(value) for value in column.to_pylist(maps_as_pydicts="lossy")]
    values: list[Any] = []
    for row, text in enumerate(texts_of(column)):
        try:
            values.append(None if text is None else json.loads(text))
        except (ValueError, RecursionError):
            part.refuse(row, f"{name} is {shown(text)}, which is not JSON")
            values.append(None)
    return values


def times_of(column: Any) -> NDArray[np.float64]:
    """Returns ``column``, an Arrow array of timestamps, dates, numbers or texts, as seconds UTC, float64 (n,). Null and
    values that are not a time become NaN. Times without a zone are UTC. The size of numbers tells seconds,
    milliseconds, microseconds and nanoseconds apart."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(column.type):
        # Seconds and their fractions apart, or nanoseconds would be rounded twice.
        per_second = _PER_SECOND[column.type.unit]
        ticks = column.cast("int64").fill_null(0).to_numpy(zero_copy_only=False)
        seconds, fractions = np.divmod(ticks, per_second)
        return np.where(is_set(column), seconds + fractions / per_second, nan)
    if is_text(column.type):
        return _times_in(as_text(column))
    try:
        times = _floats(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.full(len(column), nan)
    for low, high, unit in _SIZES:
        times = np.where((times >= low) & (times < high), times / unit, times)
    return times


def parse_time(value: object) -> float | None:
    """Returns a single ``value`` as seconds UTC, by the rules of ``times_of``; None if it is no time."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = as_float(value)
    except ValueError:
        return _parse_iso(str(value))
    return next((number / unit for low, high, unit in _SIZES if low <= number < high), number)


def _times_in(texts: Any) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.float64()):
        try:
            return times_of(pc.utf8_trim_whitespace(texts).cast(kind))
        except pa.ArrowInvalid:
            continue
    times = map(parse_time, texts_of(texts))
    return np.array([nan if time is None else time for time in times])


def _parse_iso(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _floats(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.cast("float64", safe=False).to_numpy(zero_copy_only=False), np.float64)


def _as_json(value: Any) -> Any:
    """Returns ``value`` as JSON types; decimals become numbers."""
    if isinstance(value, dict):
        return {str(name): _as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return value if value is None or isinstance(value, (str, bool, int, float)) else _number(value)


def _numbers(values: list[Any]) -> list[float]:
    """Returns ``values``, which may be texts of numbers, as numbers. Raises ValueError for the first other value."""
    numbers: list[float] = []
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


def _converted(part: TablePart, role: str, column: Any, kind: Any, convert: Callable[[Any], Any]) -> Any:
    """Converts ``column`` to ``kind`` cell by cell. A bad cell becomes null, and a fault if the row needs it."""
    import pyarrow as pa

    converted: list[Any] = []
    for row, scalar in enumerate(column):
        converted.append(None)
        try:
            value = scalar.as_py()
            converted[-1] = None if value is None else convert(value)
            if value is None or converted[-1] is not None:
                continue
        except ValueError as error:
            if role in VECTORS:
                detail = " hold text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
                part.refuse(row, f"{role}{detail}")
                continue
        part.repaired["column"] += 1
    return pa.array(converted, kind)
