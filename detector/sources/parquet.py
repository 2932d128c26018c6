"""Parquet, whoever wrote it: a table with a query a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import DecodedQueries
from detector.sources.cells import Part
from detector.sources.looks import Look, looks_of
from detector.sources.paths import partitions
from detector.sources.reading import Reading
from detector.sources.table import read_part

_ROWS, _SAMPLE = 4096, 1000
_BYTES = 16 << 20


def read_parquet(path: Path, reading: Reading | None = None) -> Iterator[DecodedQueries]:
    """The queries in the Parquet file at ``path``. Raises ConfigurationError where it is not such a log."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    reading = reading or Reading()
    try:
        with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
            given = {name: value for name, value in partitions(path).items() if name not in file.schema_arrow.names}
            plan = reading.plan(path, lambda: _looks(file), frozenset([*_named(file), *given]))
            names = [name for name in plan.names() if name not in given]
            start = 0
            for table in file.iter_batches(rows_at_once(file.metadata), columns=names):
                columns = dict(zip(table.schema.names, table.columns, strict=True))
                columns |= {name: pa.array([value] * table.num_rows, pa.string()) for name, value in given.items()}
                yield from read_part(reading, plan, Part(path, columns, start + np.arange(table.num_rows)))
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


def rows_at_once(metadata: Any) -> int:
    """How many rows hold so much that they may be in memory together."""
    nbytes: int = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    rows: int = metadata.num_rows
    return max(1, min(_ROWS, _BYTES * rows // max(nbytes, 1)))


def _named(file: Any) -> list[str]:
    """The columns; one that is null throughout, and so has no type, is as good as absent."""
    return [field.name for field in file.schema_arrow if str(field.type) != "null"]


def _looks(file: Any) -> dict[str, Look]:
    """From some rows, the first ones."""
    import pyarrow as pa

    rows = min(_SAMPLE, rows_at_once(file.metadata))
    table = next(file.iter_batches(rows), None) or pa.RecordBatch.from_pylist([], file.schema_arrow)
    return looks_of({name: table[name] for name in _named(file)})
