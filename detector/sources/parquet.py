"""Parquet: one query a row, columns named as the fields of ``weirguard.query``; other columns are ignored.

``features`` and ``outputs`` are lists of numbers, ``occurred_at`` a UTC timestamp or seconds, ``missing`` a list of
booleans, ``specification`` a list of two numbers. Rows may differ in model, dimension and in which optional columns
are null. A cell that is no number costs its row where a query needs it, and is left out elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.mending import TEXT_COLUMNS
from detector.contracts.codecs.screening import screen
from detector.contracts.errors import ConfigurationError
from detector.contracts.principals import names_one, usable_principal
from detector.contracts.queries import BadRow, DecodedQueries, OutputKind, QueryBatch
from detector.sources.cells import LISTS, NUMBERS, TEXTS, Cells, clean

_REQUIRED = ("event_id", "principal", "model", "model_version", "occurred_at", "features", "outputs")
_OPTIONAL = ("missing", "specification", *NUMBERS, *TEXT_COLUMNS)
_ROWS = 4096
_BYTES = 16 << 20
_PER_SECOND = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}


def read_parquet(path: Path) -> Iterator[DecodedQueries]:
    """The queries in the Parquet file at ``path``. Raises ConfigurationError where it is not such a log."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = _columns(path, file.schema_arrow)
            start = 0
            for table in file.iter_batches(_rows_at_once(file.metadata), columns=names):
                yield from _read(path, table, start)
                start += table.num_rows
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path}: cannot read it as Parquet: {error}") from error


def count_rows(path: Path) -> int:
    """How many rows the file at ``path`` has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path}: cannot read it as Parquet: {error}") from error


def _columns(path: Path, schema: Any) -> list[str]:
    """The columns to read; one that is null throughout, and so has no type, is as good as absent."""
    names = {field.name for field in schema if str(field.type) != "null"}
    if absent := [name for name in _REQUIRED if name not in names]:
        raise ConfigurationError(f"{path}: has no column {', '.join(absent)}; a log needs {', '.join(_REQUIRED)}")
    return [name for name in (*_REQUIRED, "output_kind", *_OPTIONAL) if name in names]


def _rows_at_once(metadata: Any) -> int:
    nbytes: int = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    rows: int = metadata.num_rows
    return max(1, min(_ROWS, _BYTES * rows // max(nbytes, 1)))


def _read(path: Path, table: Any, start: int) -> Iterator[DecodedQueries]:
    cells = clean(path, table)
    bad = [_faulty(cells, row, start) for row in sorted(cells.faults)]
    rows = np.array([row for row in range(table.num_rows) if row not in cells.faults], dtype=np.int64)
    columns = _Columns.of(path, cells.take(rows) if bad else cells)
    if bad or cells.repaired:
        yield DecodedQueries(None, rows[:0], bad_rows=bad, repaired=cells.repaired)
    edges = [*np.flatnonzero(columns.breaks()).tolist(), len(rows)]
    for first, stop in pairwise(edges):
        yield _numbered(columns, first, stop, rows[first:stop] + start)


def _faulty(cells: Cells, row: int, start: int) -> BadRow:
    """The ``row`` with a fault, by its place in the file."""
    model, principal = cells.texts["model"][row] or "", cells.texts["principal"][row]
    who = "" if principal is None else usable_principal(principal)
    return BadRow(row + start, "structure", cells.faults[row], model if names_one(model) else "", who)


def _is_set(column: Any) -> NDArray[np.bool_]:
    return cast("NDArray[np.bool_]", column.is_valid().to_numpy(zero_copy_only=False))


def _numbered(columns: _Columns, first: int, stop: int, rows: NDArray[np.int64]) -> DecodedQueries:
    """The run of like rows from ``first`` to ``stop``, screened; ``rows`` are their places in the file."""
    decoded = screen(columns.batch(first, stop), Counter())
    bad = [replace(fault, row=int(rows[fault.row])) for fault in decoded.bad_rows]
    return DecodedQueries(decoded.batch, rows[decoded.rows], bad_rows=bad, repaired=decoded.repaired)


@dataclass(frozen=True)
class _Lists:
    """A column of lists, flat: list i holds ``values[offsets[i] : offsets[i + 1]]``; null is as empty."""

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def matrix(self, first: int, stop: int) -> NDArray[Any]:
        """Lists ``first`` to ``stop``, all of one length, as rows."""
        width = int(self.lengths[first])
        return self.values[self.offsets[first] : self.offsets[stop]].reshape(stop - first, width)


@dataclass(frozen=True)
class _Columns:
    """A part of the file, as numpy arrays and lists; ``set_`` says which rows of an optional column are not null."""

    texts: dict[str, list[str]]
    occurred_at: NDArray[np.float64]
    kinds: list[str]
    lists: dict[str, _Lists]
    numbers: dict[str, NDArray[Any]]
    set_: dict[str, NDArray[np.bool_]]

    @classmethod
    def of(cls, path: Path, cells: Cells) -> _Columns:
        table, texts = cells.table, cells.texts
        names = set(table.schema.names)
        columns = cls(
            texts={name: [text or "" for text in texts[name]] for name in TEXTS if name in texts},
            occurred_at=_seconds(path, table["occurred_at"]),
            kinds=[kind or "probabilities" for kind in texts.get("output_kind", [None] * table.num_rows)],
            lists={name: _lists(name, table[name]) for name in LISTS if name in names},
            numbers={name: _number(name, table[name]) for name in NUMBERS if name in names},
            set_={name: _is_set(table[name]) for name in _OPTIONAL if name in names},
        )
        for name, width in (("missing", columns.lists["features"].lengths), ("specification", 2)):
            if name in names:
                columns.leave_out(name, columns.lists[name].lengths != width, cells.repaired)
        return columns

    def leave_out(self, name: str, odd: NDArray[np.bool_], repaired: Counter[str]) -> None:
        """The lists of the optional column ``name`` that are ``odd`` bool (n,) are as good as null."""
        if left_out := int(np.count_nonzero(odd & self.set_[name])):
            repaired["column"] += left_out
            self.set_[name] = self.set_[name] & ~odd

    def breaks(self) -> NDArray[np.bool_]:
        """Where a row cannot share a batch with the one before it; true for the first."""
        text = (self.texts["model"], self.texts["model_version"], self.kinds)
        lengths = [column.lengths for column in self.lists.values()]
        breaks = np.zeros(len(self.occurred_at), dtype=np.bool_)
        breaks[:1] = True
        for column in (*(np.array(names, dtype=object) for names in text), *lengths, *self.set_.values()):
            breaks[1:] |= column[1:] != column[:-1]
        return breaks

    def batch(self, first: int, stop: int) -> QueryBatch:
        """Rows ``first`` to ``stop``, which share a shape."""
        features = self.lists["features"].matrix(first, stop)
        outputs = self.lists["outputs"].matrix(first, stop)
        numbers: dict[str, int] = {}
        index = [numbers.setdefault(name, len(numbers)) for name in self.texts["principal"][first:stop]]
        return QueryBatch(
            model=self.texts["model"][first],
            model_version=self.texts["model_version"][first],
            output_kind=cast("OutputKind", self.kinds[first]),
            event_ids=self.texts["event_id"][first:stop],
            occurred_at=self.occurred_at[first:stop],
            principals=list(numbers),
            principal_index=np.array(index, dtype=np.int32),
            features=features,
            outputs=outputs,
            **self._optional(first, stop),
        )

    def _optional(self, first: int, stop: int) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for name in (name for name, is_set in self.set_.items() if is_set[first]):
            if name in self.lists:
                columns[name] = self.lists[name].matrix(first, stop)
            else:
                columns[name] = (self.numbers if name in self.numbers else self.texts)[name][first:stop]
        return columns


def _number(name: str, column: Any) -> NDArray[Any]:
    return cast("NDArray[Any]", column.cast(NUMBERS[name]).fill_null(0).to_numpy(zero_copy_only=False))


def _lists(name: str, column: Any) -> _Lists:
    """Values keep their nulls as NaN (numbers) or false (marks)."""
    import pyarrow.compute as pc

    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    values = column.flatten().cast(LISTS[name], safe=False)
    values = values.fill_null(False) if name == "missing" else values
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return _Lists(values.to_numpy(zero_copy_only=False), offsets)


def _seconds(path: Path, column: Any) -> NDArray[np.float64]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind):
        ticks = column.cast("int64").to_numpy(zero_copy_only=False)
        return np.asarray(ticks / _PER_SECOND[kind.unit], dtype=np.float64)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ConfigurationError(f"{path}: the column occurred_at is {kind}; it must be a UTC timestamp or seconds")
    return np.asarray(column.cast("float64", safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
