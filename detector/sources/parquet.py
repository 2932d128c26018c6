"""Parquet of any writer: a table with one query per row, and the labels in logs of the lab."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import DecodedQueries
from detector.sources.kinds import ColumnKind, kinds_of
from detector.sources.plan import LogReader
from detector.sources.table import read_part

LABELLED = b"weirguard.lab"
"""Key in the metadata of a labelled Parquet log."""

_ROWS, _SAMPLE = 4096, 1000
_BYTES = 16 << 20


def read_parquet(path: Path, reader: LogReader) -> Iterator[DecodedQueries]:
    """Yields the queries in the Parquet file at ``path``. Raises ConfigurationError for other files."""
    import pyarrow.parquet as pq

    with _errors_named(path), pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
        typed = [field.name for field in file.schema_arrow if str(field.type) != "null"]
        plan = reader.plan(path, lambda: _kinds(file, typed), typed)
        names = [name for name in plan.names() if name in file.schema_arrow.names]
        start = 0
        for table in file.iter_batches(rows_at_once(file.metadata), columns=names):
            columns = dict(zip(table.schema.names, table.columns, strict=True))
            yield from read_part(reader, plan, path, columns, start + np.arange(table.num_rows))
            start += table.num_rows


def count_rows(path: Path) -> int:
    """Returns the number of rows in the file at ``path``."""
    import pyarrow.parquet as pq

    with _errors_named(path):
        return int(pq.read_metadata(path).num_rows)


def honest_rows(path: Path) -> NDArray[np.bool_] | None:
    """Returns which rows of the log at ``path`` are honest, bool (n,), or None for an unlabelled log. Raises
    ConfigurationError for a Parquet file that cannot be read."""
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        return None
    with _errors_named(path):
        if LABELLED not in (pq.read_schema(path).metadata or {}):
            return None
        labels = pq.read_table(path, columns=["label"])["label"].to_pylist()
    return np.array([label == "honest" for label in labels], np.bool_)


def rows_at_once(metadata: Any) -> int:
    """Returns the number of rows that fit in memory together."""
    nbytes: int = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    rows: int = metadata.num_rows
    return max(1, min(_ROWS, _BYTES * rows // max(nbytes, 1)))


def _kinds(file: Any, names: list[str]) -> dict[str, ColumnKind]:
    """Returns the kinds of the columns ``names``, from the first rows."""
    import pyarrow as pa

    rows = min(_SAMPLE, rows_at_once(file.metadata))
    table = next(file.iter_batches(rows), None) or pa.RecordBatch.from_pylist([], file.schema_arrow)
    return kinds_of({name: table[name] for name in names})


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Raises errors of reading as ConfigurationError that names the file."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path}: cannot read it as Parquet: {error}") from error
