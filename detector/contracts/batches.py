"""Cutting and joining query batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from detector.contracts.queries import QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WHOLE = frozenset({"model", "model_version", "output_kind", "principals"})
COLUMNS = tuple(field.name for field in fields(QueryBatch) if field.name not in _WHOLE)
"""Fields of a batch that have one entry a row."""


def no_queries(model: str, model_version: str) -> QueryBatch:
    """A batch without rows: what a packed record that only counts queries is made from."""
    import numpy as np

    nothing = np.zeros((0, 0), dtype=np.float32)
    index = np.zeros(0, dtype=np.int32)
    return QueryBatch(model, model_version, "probabilities", [], np.zeros(0), [], index, nothing, nothing)


def take(batch: QueryBatch, rows: NDArray[np.int64]) -> QueryBatch:
    """The ``rows`` (indices, int64) of ``batch`` in that order, as copies."""
    return replace(batch, **{name: _pick(getattr(batch, name), rows) for name in COLUMNS})


def _pick(column: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(column, list):
        return [column[row] for row in rows.tolist()]
    return None if column is None else column[rows]


def cut(batch: QueryBatch, start: int, stop: int) -> QueryBatch:
    """Rows ``start`` to ``stop`` of ``batch``; arrays are views."""
    columns: dict[str, Any] = {name: getattr(batch, name) for name in COLUMNS}
    cuts: dict[str, Any] = {name: None if column is None else column[start:stop] for name, column in columns.items()}
    return replace(batch, **cuts)


def concatenate(pieces: Iterable[QueryBatch]) -> Iterator[QueryBatch]:
    """The same rows in the same order in as few batches as their shapes allow.

    Neighbours are joined when they agree in model, version, output kind, dimension, output width and in
    which optional columns they carry.
    """
    for _, alike in groupby(pieces, key=_shape):
        yield _join(list(alike))


def _shape(batch: QueryBatch) -> tuple[object, ...]:
    absent = tuple(name for name in COLUMNS if getattr(batch, name) is None)
    widths = batch.features.shape[1], batch.outputs.shape[1]
    return batch.model, batch.model_version, batch.output_kind, widths, absent


def _join(pieces: list[QueryBatch]) -> QueryBatch:
    first = pieces[0]
    if len(pieces) == 1:
        return first
    principals, index = _join_principals(pieces)
    columns = {name: _join_column([getattr(piece, name) for piece in pieces]) for name in COLUMNS}
    return replace(first, **{**columns, "principals": principals, "principal_index": index})


def _join_column(columns: list[Any]) -> Any:
    import numpy as np

    if columns[0] is None:
        return None
    if isinstance(columns[0], list):
        return [entry for column in columns for entry in column]
    return np.concatenate(columns)


def _join_principals(pieces: list[QueryBatch]) -> tuple[list[str], NDArray[np.int32]]:
    import numpy as np

    numbers: dict[str, int] = {}
    renumbered = []
    for piece in pieces:
        names, index = piece.principals, piece.principal_index
        if len(index) < len(names):
            names, index = [names[place] for place in index.tolist()], np.arange(len(index), dtype=np.int32)
        places = [numbers.setdefault(name, len(numbers)) for name in names]
        renumbered.append(np.array(places, dtype=np.int32)[index])
    return list(numbers), np.concatenate(renumbered)
