"""The features and the outputs of some rows of a table, however its columns hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
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


def features_of(part: Part, plan: Plan) -> Vectors:
    """The features of each row of ``part``."""
    own = plan.columns["features"]
    return _whole(part, plan, "features", own[0]) if plan.is_one("features") else _named(part, plan, own)


def outputs_of(part: Part, plan: Plan) -> Vectors | None:
    """The outputs of each row of ``part``; a text is a name of one output of 1. None: there are none."""
    own = plan.columns.get("outputs", ())
    if len(own) == 1:
        return _whole(part, plan, "outputs", own[0])
    if not own:
        return None
    named = _named(part, plan, own)
    start = len(commonprefix(own))
    for row in np.flatnonzero(np.isnan(named.numbers).any(axis=1)).tolist():
        part.refuse(row, f"{own[int(np.isnan(named.numbers[row]).argmax())]} is null")
    return Named(tuple(name[start:] or name for name in own), named.numbers)


def _whole(part: Part, plan: Plan, role: str, name: str) -> Vectors:
    """A column that holds the whole vector of each row, or the one output."""
    column = part.columns[name]
    for row in np.flatnonzero(~is_set(column)).tolist():
        part.refuse(row, f"{name} is null")
    kind = plan.kinds[name] if kind_of(column.type) == "text" or is_list(column.type) else kind_of(column.type)
    if kind in {"list", None}:
        return lists_of(part, role, column)[0]
    if kind == "record":
        return _record(part, column)
    if kind == "value":
        return _plainly(part, role, values_of(part, name, column))
    if kind == "text":
        names = np.array([text or "" for text in texts_of(column)], object)[:, None]
        return Named((), np.ones((len(part), 1), np.float32), names)
    numbers = numbers_of(part, name, column)
    return Lists(_float32(numbers), np.arange(len(part) + 1))


def _named(part: Part, plan: Plan, names: Sequence[str]) -> Named:
    """Columns of a number or a text each."""
    texts = [name for name in names if plan.kinds[name] == "text"]
    numbers = [name for name in names if name not in texts]
    return _joined(part, {name: part.columns[name] for name in numbers}, {name: part.columns[name] for name in texts})


def _record(part: Part, column: Any) -> Named:
    import pyarrow.compute as pc

    fields = {field.name: pc.struct_field(column, at) for at, field in enumerate(column.type)}
    texts = {name: own for name, own in fields.items() if kind_of(own.type) == "text"}
    return _joined(part, {name: own for name, own in fields.items() if name not in texts}, texts)


def _joined(part: Part, numbers: dict[str, Any], texts: dict[str, Any]) -> Named:
    matrix = np.empty((len(part), len(numbers)), np.float32)
    for at, (name, column) in enumerate(numbers.items()):
        matrix[:, at] = _float32(numbers_of(part, name, column))
    words = None
    if texts:
        words = np.empty((len(part), len(texts)), object)
        for at, column in enumerate(texts.values()):
            words[:, at] = texts_of(column)
    return Named((*numbers, *texts), matrix, words)


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
