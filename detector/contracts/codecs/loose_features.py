"""Features as people have them: an object of named values, or a list with texts in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isnan
from typing import TYPE_CHECKING, Any

from detector.contracts.codecs.limits import DIMENSIONS
from detector.contracts.codecs.loose_values import as_float, shown
from detector.contracts.errors import InvalidRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value = float | str | None

_REMEMBERED = 1_024
"""The order of so many names is kept: callers choose names, and memory is bounded."""
_DEEPEST = 8
"""Objects within objects to this depth are features with names like ``a.b``."""


@dataclass(frozen=True, slots=True)
class NamedRow:
    """``names`` in an order that they alone decide, their ``values``, and at which positions these are ``texts``."""

    names: tuple[str, ...]
    values: tuple[Value, ...]
    texts: tuple[int, ...]


def named_row(given: Mapping[str, Any]) -> NamedRow:
    """The features of an object, whatever the order of its keys. Raises InvalidRecord where there are too many or a
    value is none."""
    if not given or any(isinstance(value, (dict, list)) for value in given.values()):
        given = dict(_flat(given, "", 0))
    _check_count(len(given))
    names, order = (_sorted if len(given) <= _REMEMBERED else _sorted.__wrapped__)(tuple(given))
    values = list(given.values())
    return _row(names, [values[at] for at in order])


def listed_row(given: Sequence[Any], missing: Sequence[bool] | None) -> NamedRow:
    """The features of a list, named by position from 1; ``missing``: those that are, None where nothing says so."""
    _check_count(len(given))
    marks = missing if missing is not None and len(missing) == len(given) else [False] * len(given)
    names = tuple(map(str, range(1, len(given) + 1)))
    return _row(names, [None if mark else value for value, mark in zip(given, marks, strict=True)])


def columns_of(rows: Sequence[NamedRow]) -> dict[str, Any]:
    """``feature_names``, ``features`` and ``texts`` of rows with the same names: what is a text in any of them is a
    text in all."""
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
    """Names and values of all that is within ``given``."""
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
