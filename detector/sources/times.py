"""Moments as logs write them, to seconds UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.loose import as_float, text_of
from detector.sources.looks import as_text, is_text, values_in

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
