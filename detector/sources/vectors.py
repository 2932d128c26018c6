"""The features and the outputs of some rows of a table, however its columns hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.sources.cells import Lists, Part, is_set, lists_of, numbers_of, texts_of, values_of
from detector.sources.looks import is_list, kind_of
from detector.sources.plan import Plan


@dataclass(frozen=True, slots=True)
class Named:
    """``names`` of the columns of ``numbers`` float32 (n, d), NaN where missing, then of ``texts`` object (n, t), None
    where missing."""

    names: tuple[str, ...]
    numbers: NDArray[np.float32]
    texts: NDArray[np.object_] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.full(len(self.numbers), self.numbers.shape[1])

    def take(self, rows: NDArray[np.int64]) -> Named:
        """Those of ``rows``."""
        return Named(self.names, self.numbers[rows], None if self.texts is None else self.texts[rows])


@dataclass(frozen=True, slots=True)
class Values:
    """What each row has, as JSON has it."""

    values: list[Any]

    def take(self, rows: NDArray[np.int64]) -> Values:
        """Those of ``rows``."""
        return Values([self.values[row] for row in rows.tolist()])


Vectors = Lists | Named | Values

_WORD, _LETTERS = re.compile(r".*[\W_](?=[^\W_]+$)"), re.compile(r"\D+(?=\d+$)")
_ENTRY = {"label", "class", "name", "score", "probability"}
"""Fields of a struct that is one of the best classes rather than what each class has."""


def features_of(part: Part, plan: Plan) -> Vectors:
    """The features of each row of ``part``."""
    own = plan.columns["features"]
    if not plan.is_one("features"):
        return _named(part, plan, sorted(own))
    column = part.columns[own[0]]
    for row in np.flatnonzero(~is_set(column)).tolist():
        part.refuse(row, f"{own[0]} is null")
    return _whole(part, plan, "features", own[0])


def outputs_of(part: Part, plan: Plan) -> tuple[Vectors, NDArray[np.bool_]]:
    """The outputs of each row of ``part``, of a text a ``Named`` without names; and which rows have any, bool (n,)."""
    own = plan.columns.get("outputs", ())
    if len(own) == 1:
        return _whole(part, plan, "outputs", own[0]), is_set(part.columns[own[0]])
    named = _named(part, plan, own)
    absent: NDArray[np.bool_] = np.isnan(named.numbers)
    for row in np.flatnonzero(absent.any(axis=1) & ~absent.all(axis=1)).tolist():
        part.refuse(row, f"{named.names[int(absent[row].argmax())]} is null")
    is_answered: NDArray[np.bool_] = np.logical_not(np.logical_and.reduce(absent, axis=1))
    return Named(class_names(named.names), named.numbers), is_answered


def class_names(columns: Sequence[str]) -> tuple[str, ...]:
    """What output ``columns`` are of, without what all their names begin with."""
    for beginning in (_WORD, _LETTERS):
        found = {match[0] if (match := beginning.match(name)) else "" for name in columns}
        if len(found) == 1:
            start = len(found.pop())
            return tuple(name[start:] or name for name in columns)
    return tuple(columns)


def _whole(part: Part, plan: Plan, role: str, name: str) -> Vectors:
    """A column that holds the whole vector of each row, or the one output."""
    column = part.columns[name]
    kind = plan.kinds[name] if kind_of(column.type) == "text" or is_list(column.type) else kind_of(column.type)
    if kind == "list" or kind is None:
        return lists_of(part, role, column)[0]
    if kind == "record" and (role == "features" or _is_distribution(column.type)):
        return _record(part, column, is_sorted=role == "features")
    if kind in {"value", "record"}:
        return _plainly(part, role, values_of(part, name, column))
    if kind == "text":
        names = np.array([text or "" for text in texts_of(column)], object)[:, None]
        return Named((), np.ones((len(part), 1), np.float32), names)
    return Lists(_float32(numbers_of(part, name, column)), np.arange(len(part) + 1))


def _is_distribution(struct: Any) -> bool:
    """Whether the fields of ``struct`` are classes."""
    names = {field.name for field in struct}
    return len(names) > 1 and not names & _ENTRY and all(kind_of(field.type) == "number" for field in struct)


def _named(part: Part, plan: Plan, names: Sequence[str]) -> Named:
    """Columns of a number or a text each."""
    return _joined(
        part, {name: part.columns[name] for name in names}, {name for name in names if plan.kinds[name] == "text"}
    )


def _record(part: Part, column: Any, *, is_sorted: bool) -> Named:
    import pyarrow.compute as pc

    names = [field.name for field in column.type]
    fields = {name: pc.struct_field(column, names.index(name)) for name in (sorted(names) if is_sorted else names)}
    return _joined(part, fields, {name for name, own in fields.items() if kind_of(own.type) == "text"})


def _joined(part: Part, columns: Mapping[str, Any], texts: set[str]) -> Named:
    """``columns`` by name, those of ``texts`` last; features in the order of their names, as those of a JSON query."""
    numbers = [name for name in columns if name not in texts]
    matrix = _together([columns[name] for name in numbers])
    if matrix is None:
        matrix = np.empty((len(part), len(numbers)), np.float32)
        for at, name in enumerate(numbers):
            matrix[:, at] = _float32(numbers_of(part, name, columns[name]))
    names = [name for name in columns if name in texts]
    words = np.empty((len(part), len(names)), object)
    for at, name in enumerate(names):
        words[:, at] = texts_of(columns[name])
    return Named((*numbers, *names), matrix, words if names else None)


def _together(columns: Sequence[Any]) -> NDArray[np.float32] | None:
    """``columns`` of texts, all of numbers, as a matrix: converted at once, which takes a tenth of the
    time where there are thousands. None where some are not."""
    import pyarrow as pa

    if not columns or any(column.type != pa.string() for column in columns):
        return None
    try:
        numbers = pa.concat_arrays(columns).cast("float64").to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    return _float32(np.asarray(numbers, np.float64)).reshape(len(columns), -1).T


def _float32(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def _plainly(part: Part, role: str, values: list[Any]) -> Vectors:
    """``values`` as lists of numbers, if they are that."""
    import pyarrow as pa

    try:
        return lists_of(part, role, pa.array(values, pa.list_(pa.float64())))[0]
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return Values(values)
