"""Reads row by row the calls of the logger that do not convert as a whole.

Rows may be ragged, cells no numbers, features named or texts, and outputs no vectors of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from detector.contracts.codecs.loose import (
    LooseOutputs,
    NamedRow,
    as_float,
    columns_of,
    listed_row,
    named_row,
    output_columns,
    outputs_of,
)
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import OutputKind
from detector.serving.isolation import harmless

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LooseRows:
    """Rows of one layout: their places in the call, ``features`` float32 (n, d) with ``feature_names``, ``outputs``
    float32 (n, k) of ``output_kind``, and ``columns``: texts and names of classes, if any."""

    places: list[int]
    features: NDArray[np.float32]
    feature_names: tuple[str, ...] | None
    output_kind: OutputKind
    outputs: NDArray[np.float32]
    columns: dict[str, Any]


def is_loose(features: Any, outputs: Any) -> bool:
    """Whether these are for ``loose_rows``: names or texts are among them, or a query has no outputs."""
    rows, answers = (given if isinstance(given, list | tuple) else [given] for given in (features, outputs))
    if any(answer is None for answer in answers):
        return True
    return any(map(_has_texts, (rows, answers, *rows, *answers)))


def _has_texts(given: Any) -> bool:
    if isinstance(given, list | tuple):
        return any(isinstance(one, str | Mapping) for one in given)
    return isinstance(given, str | Mapping)


def loose_rows(features: Any, outputs: Any, kind: OutputKind) -> list[LooseRows]:
    """The rows of a call by their layout; what stands in none of them cannot be used. Raises InvalidRecord when outputs
    and features do not belong together row by row."""
    asked = _asked(features)
    answered = [outputs] if len(asked) == 1 and not _is_one_of_one(outputs) else _values(outputs, len(asked))
    if len(answered) != len(asked):
        raise InvalidRecord("length", f"outputs of {len(answered)} queries came with features of {len(asked)}")
    groups: dict[tuple[object, ...], list[tuple[int, Any, LooseOutputs]]] = {}
    for place, (row, answer) in enumerate(zip(asked, answered, strict=True)):
        with harmless():  # whatever a caller's object raises, it is no query
            named, said = _features(row), outputs_of(_plain(answer), None if kind == "probabilities" else kind)
            told = named.names if isinstance(named, NamedRow) else len(named)
            key = (told, said.kind, len(said.values), said.names is None)
            groups.setdefault(key, []).append((place, named, said))
    return [_together(group) for group in groups.values()]


def _together(group: list[tuple[int, Any, LooseOutputs]]) -> LooseRows:
    import numpy as np

    rows, said = [row for _, row, _ in group], [said for *_, said in group]
    if isinstance(rows[0], NamedRow):
        columns = columns_of(rows)
    else:
        columns = {"features": np.array(rows, dtype=np.float64).astype(np.float32)}
    columns |= output_columns(said)
    features, outputs, names = columns.pop("features"), columns.pop("outputs"), columns.pop("feature_names", None)
    return LooseRows([place for place, *_ in group], features, names, said[0].kind, outputs, columns)


def _asked(features: Any) -> list[Any]:
    """One entry a query: a mapping is one, or if it holds a list for each name the columns of several."""
    if isinstance(features, Mapping):
        columns = {name: _values(values) for name, values in features.items() if is_vector(values)}
        if not columns or len(columns) < len(features) or len(set(map(len, columns.values()))) > 1:
            return [features]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not is_vector(features):
        raise InvalidRecord("structure", f"features are {type(features).__name__}, neither a list nor an object")
    rows = list(features)
    return rows if any(isinstance(row, Mapping) or is_vector(row) for row in rows) else [rows]


def _values(given: Any, rows: int = 1) -> list[Any]:
    """``given`` as a list; None for each of the ``rows`` where there is nothing."""
    if given is None:
        return [None] * rows
    return list(given) if is_vector(given) else [given]


def _is_one_of_one(outputs: Any) -> bool:
    """Whether these are the outputs of one query in a list or a matrix of one row."""
    return is_vector(outputs) and len(outputs) == 1


def _features(row: Any) -> NamedRow | list[float]:
    if isinstance(row, str) or not len(row):
        raise ValueError("there are no features")
    if isinstance(row, Mapping):
        return named_row({str(name): _plain(value) for name, value in row.items()})
    values = [_plain(value) for value in row]
    if any(isinstance(value, str) for value in values):
        return listed_row(values, None)
    return [as_float(value) for value in values]


def _plain(value: Any) -> Any:
    """``value`` as JSON has it: what only this process knows as its number or its text."""
    if isinstance(value, str):
        return str(value)  # numpy has texts of its own
    if isinstance(value, bool | int | float) or value is None or type(value).__name__ in NOTHING:
        return None if type(value).__name__ in NOTHING else value
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if is_vector(value):
        return [_plain(one) for one in value]
    with harmless():
        return float(value)
    return str(value)


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
