"""Cutting and joining query batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from detector.contracts.queries import Part, QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    from detector.contracts.lazy import np

_PER_BATCH = frozenset({"model", "model_version", "output_kind", "principals", "feature_names"})
COLUMNS = tuple(field.name for field in fields(QueryBatch) if field.name not in _PER_BATCH)
"""Fields of a batch that have one entry a row."""


def empty_batch(model: str, model_version: str) -> QueryBatch:
    """Returns a batch without rows, for a packed record that only counts queries."""
    nothing = np.zeros((0, 0), dtype=np.float32)
    index = np.zeros(0, dtype=np.int32)
    return QueryBatch(model, model_version, "probabilities", [], np.zeros(0), [], index, nothing, nothing)


def take(batch: QueryBatch, rows: NDArray[np.int64]) -> QueryBatch:
    """Returns the ``rows`` (indices, int64) of ``batch`` in that order, as copies."""
    return replace(batch, **{name: _pick(getattr(batch, name), rows) for name in COLUMNS})


def select(batch: QueryBatch, rows: Sequence[int] | NDArray[np.int64]) -> QueryBatch:
    """Returns the same as ``take``, with only the principals of those rows."""
    picked = take(batch, np.array(rows, dtype=np.int64))
    used, index = np.unique(picked.principal_index, return_inverse=True)
    names = [batch.principals[number] for number in used.tolist()]
    return replace(picked, principals=names, principal_index=index.astype(np.int32))


def _pick(column: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(column, list):
        return [column[row] for row in rows.tolist()]
    return None if column is None else column[rows]


def cut(batch: QueryBatch, start: int, stop: int) -> QueryBatch:
    """Returns rows ``start`` to ``stop`` of ``batch``; arrays are views."""
    columns: dict[str, Any] = {name: getattr(batch, name) for name in COLUMNS}
    cuts: dict[str, Any] = {name: None if column is None else column[start:stop] for name, column in columns.items()}
    return replace(batch, **cuts)


def in_log_order(parts: Sequence[Part]) -> Iterator[Part]:
    """Yields the rows of ``parts`` in log order. No record may be in two parts."""
    if len(parts) < 2:
        yield from parts
        return
    sizes = [len(batch) for batch, _, _ in parts]
    part = np.arange(len(parts)).repeat(sizes)
    within = np.concatenate([np.arange(size) for size in sizes])
    order = np.concatenate([records for _, records, _ in parts]).argsort(kind="stable")
    edges = [0, *(np.flatnonzero(np.diff(part[order])) + 1).tolist(), len(order)]
    for first, last in pairwise(edges):
        batch, records, rows = parts[part[order[first]]]
        start, stop = within[order[first]], within[order[last - 1]] + 1
        yield cut(batch, start, stop), records[start:stop], rows[start:stop]


def concatenate(pieces: Iterable[QueryBatch]) -> Iterator[QueryBatch]:
    """Yields the same rows in the same order in as few batches as their shapes allow.

    Neighbours are joined when they agree in model, version, output kind, dimension, output width, names of features and
    optional columns; if only some have ``missing``, nothing is missing in the others.
    """
    for _, alike in groupby(pieces, key=_shape):
        yield _join(list(alike))


def _shape(batch: QueryBatch) -> tuple[object, ...]:
    absent = tuple(name for name in COLUMNS if name != "missing" and getattr(batch, name) is None)
    widths = batch.features.shape[1], batch.outputs.shape[1]
    return batch.model, batch.model_version, batch.output_kind, widths, batch.feature_names, absent


def _join(pieces: list[QueryBatch]) -> QueryBatch:
    first = pieces[0]
    if len(pieces) == 1:
        return first
    columns = {name: join_columns([getattr(piece, name) for piece in pieces]) for name in COLUMNS if name != "missing"}
    columns["missing"] = _join_missing(pieces)
    names, rows = [piece.principals for piece in pieces], [len(piece) for piece in pieces]
    principals, index = join_principals(names, rows, columns["principal_index"])
    return replace(first, **{**columns, "principals": principals, "principal_index": index})


def join_columns(columns: list[Any]) -> Any:
    """Returns one column of all rows: a list, an array, or None if the first column is None."""
    if columns[0] is None:
        return None
    if isinstance(columns[0], list):
        return [entry for column in columns for entry in column]
    return np.concatenate(columns)


def _join_missing(pieces: list[QueryBatch]) -> NDArray[np.bool_] | None:
    if all(piece.missing is None for piece in pieces):
        return None
    masks = [np.zeros(piece.features.shape, np.bool_) if piece.missing is None else piece.missing for piece in pieces]
    return np.concatenate(masks)


def join_principals(
    names: Sequence[list[str]], rows: Sequence[int], index: NDArray[np.int32]
) -> tuple[list[str], NDArray[np.int32]]:
    """Returns one list of principals, and the index (n,) into it, of pieces of ``rows`` rows with principals ``names``.

    ``index`` (n,) holds the index of each piece into its own names. No principal is in the list twice, and if there are
    more names than rows, each has a row.
    """
    listed: list[str] = []
    before = []
    for batch_names in names:
        before.append(len(listed))
        listed += batch_names
    positions = index + np.array(before).repeat(rows)
    if len(positions) < len(listed):
        listed, positions = [listed[position] for position in positions.tolist()], np.arange(len(positions))
    numbers: dict[str, int] = {}
    numbered = [numbers.setdefault(name, len(numbers)) for name in listed]
    return list(numbers), np.array(numbered, dtype=np.int32)[positions]
