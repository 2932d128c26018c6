"""Parquet of any writer: a table with one query per row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import DecodedQueries
from detector.sources.cells import TablePart
from detector.sources.files import partitions
from detector.sources.kinds import ColumnLook, looks_of
from detector.sources.plan import LogReader
from detector.sources.table import read_part

_ROWS, _SAMPLE = 4096, 1000
_BYTES = 16 << 20


def read_parquet(path: Path, reading: LogReader | None = None) -> Iterator[DecodedQueries]:
    """Yields the queries in the Parquet file at ``path``. Raises ConfigurationError for other files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    reading = reading or LogReader()
    try:
        with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
            given = {name: value for name, value in partitions(path).items() if name not in file.schema_arrow.names}
            plan = reading.plan(path, lambda: _looks(file), frozenset([*_named(file), *given]))
            names = [name for name in plan.names() if name not in given]
            start = 0
            for table in file.iter_batches(rows_at_once(file.metadata), columns=names):
                columns = dict(zip(table.schema.names, table.columns, strict=True))
                columns |= {name: pa.array([value] * table.num_rows, pa.string()) for name, value in given.items()}
                yield from read_part(reading, plan, TablePart(path, columns, start + np.arange(table.num_rows)))
                start += table.num_rows
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path}: cannot read it as Parquet: {error}") from error


def count_rows(path: Path) -> int:
    """Returns the number of rows in the file at ``path``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path}: cannot read it as Parquet: {error}") from error


def rows_at_once(metadata: Any) -> int:
    """Returns the number of rows that fit in memory together."""
    nbytes: int = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    rows: int = metadata.num_rows
    return max(1, min(_ROWS, _BYTES * rows // max(nbytes, 1)))


def _named(file: Any) -> list[str]:
    """Returns the columns, without untyped columns of nulls."""
    return [field.name for field in file.schema_arrow if str(field.type) != "null"]


def _looks(file: Any) -> dict[str, ColumnLook]:
    """Returns the looks of the columns, from the first rows."""
    import pyarrow as pa

    rows = min(_SAMPLE, rows_at_once(file.metadata))
    table = next(file.iter_batches(rows), None) or pa.RecordBatch.from_pylist([], file.schema_arrow)
    return looks_of({name: table[name] for name in _named(file)})


MARK = b"weirguard.lab"
"""Key in the metadata of a labelled Parquet log."""


def honest_rows(path: Path) -> NDArray[np.bool_] | None:
    """Returns which rows of the log at ``path`` are honest, bool (n,), or None for an unlabelled log. Raises
    ConfigurationError for a Parquet file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        return None
    try:
        if MARK not in (pq.read_schema(path).metadata or {}):
            return None
        labels = pq.read_table(path, columns=["label"])["label"].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path}: cannot read it as Parquet: {error}") from error
    return np.array([label == "honest" for label in labels], np.bool_)
