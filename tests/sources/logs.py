"""Log files for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from detector.contracts.batches import COLUMNS
from detector.contracts.queries import QueryBatch
from tests.contracts.batches import principals_of
from tests.contracts.wire import encode_json_query

SINGULAR = {"event_ids": "event_id"}


def rows_of(batch: QueryBatch) -> list[dict[str, Any]]:
    """``batch`` as rows with the column names of a log."""
    columns = {SINGULAR.get(name, name): getattr(batch, name) for name in set(COLUMNS) - {"principal_index"}}
    same = {"model": batch.model, "model_version": batch.model_version, "output_kind": batch.output_kind}
    return [
        same | {"principal": principal} | {name: _entry(column, row) for name, column in columns.items()}
        for row, principal in enumerate(principals_of(batch))
    ]


def _entry(column: Any, row: int) -> Any:
    if column is None:
        return None
    return column[row].tolist() if isinstance(column, np.ndarray) else column[row]


def write_parquet(path: Path, rows: list[dict[str, Any]], **columns: Any) -> Path:
    """``rows`` as Parquet, ``features`` and ``outputs`` as float32 lists; ``columns`` replace or add some."""
    table = pa.Table.from_pylist(rows)
    for name in ("features", "outputs"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.list_(pa.float32())))
    for name, column in columns.items():
        at = table.schema.get_field_index(name)
        table = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
    pq.write_table(table, path)
    return path


def write_jsonl(path: Path, *batches: QueryBatch) -> Path:
    """Every row of ``batches`` as a line."""
    lines = [encode_json_query(batch, row) for batch in batches for row in range(len(batch))]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
