"""Calls that do not convert as a whole: one ragged row, or one cell that is no number, must not hide the other rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from detector.contracts.codecs.loose_values import as_float
from detector.contracts.errors import InvalidRecord
from detector.serving.complaints import harmless

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOTHING = {"NAType", "NaTType"}
"""Types of pandas' missing values, which are no numbers."""


class Alike(NamedTuple):
    """Rows of the same widths: their positions in the call, ``features`` float32 (n, d), ``outputs`` float32 (n, k)."""

    places: list[int]
    features: NDArray[np.float32]
    outputs: NDArray[np.float32]


def count_rows(features: Any) -> int:
    """Returns how many queries ``features`` hold: (n, d) n, (d,) one; one as well where that is unknown."""
    with harmless():  # an object of the caller may raise whatever it is asked
        shape = getattr(features, "shape", None)
        if shape is not None:
            return int(shape[0]) if len(shape) > 1 else 1
        if isinstance(features, Mapping):
            lengths = {len(values) if is_vector(values) else 0 for values in features.values()}
            return lengths.pop() if len(lengths) == 1 and 0 not in lengths else 1
        return len(features) if _is_nested(features) else 1
    return 1


def salvage(features: Any, outputs: Any) -> list[Alike]:
    """Returns the rows that are numbers, by their widths; the others cannot be used.

    Raises InvalidRecord when outputs and features do not belong together row by row.
    """
    import numpy as np

    queries = count_rows(features)
    asked = list(features) if queries > 1 or _is_nested(features) else [features]
    answered = [outputs] if len(asked) == 1 and not _is_nested(outputs) else _listed(outputs)
    if len(answered) != len(asked):
        raise InvalidRecord("length", f"outputs of {len(answered)} queries came with features of {len(asked)}")
    groups: dict[tuple[int, int], list[tuple[int, list[float], list[float]]]] = {}
    for place, (row, answer) in enumerate(zip(asked, answered, strict=True)):
        numbers, results = _row(row), _row(answer if is_vector(answer) else [answer])
        if numbers and results:
            groups.setdefault((len(numbers), len(results)), []).append((place, numbers, results))
    alike = []
    with np.errstate(over="ignore"):
        for group in groups.values():
            places, rows, answers = zip(*group, strict=True)
            alike.append(Alike(list(places), _matrix(rows), _matrix(answers)))
    return alike


def pick(values: Any, places: Sequence[int], queries: int) -> Any:
    """Returns the entries of ``values`` at ``places``, if it has one for each of ``queries``; else all of it."""
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != queries:
        return values
    return [values[place] for place in places]


def _matrix(rows: Sequence[list[float]]) -> NDArray[np.float32]:
    import numpy as np

    return np.array(rows, dtype=np.float64).astype(np.float32)


def is_vector(values: Any) -> bool:
    return hasattr(values, "__len__") and hasattr(values, "__getitem__") and not isinstance(values, str | bytes | dict)


def _is_nested(values: Any) -> bool:
    return is_vector(values) and any(is_vector(value) or isinstance(value, Mapping) for value in values)


def _listed(values: Any) -> list[Any]:
    return list(values) if is_vector(values) else [values]


def _row(values: Any) -> list[float] | None:
    """Returns the numbers of one row; None if an entry is no number."""
    if not is_vector(values):
        return None
    with harmless():  # whatever a caller's object raises, it is no number
        return [_number(cell) for cell in values]
    return None


def _number(cell: Any) -> float:
    return as_float(None if type(cell).__name__ in NOTHING else cell)
