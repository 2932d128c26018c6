"""The same queries as many programs write them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from detector.contracts.queries import QueryBatch

Row = dict[str, Any]
GOLDEN = Path(__file__).parent / "golden"
ROWS = 12


def rows() -> list[Row]:
    """Queries of two accounts: a number, a flag and a text as features, some of them missing; two probabilities."""
    return [
        {
            "event_id": f"e{at}",
            "occurred_at": 1_700_000_000.25 + at,
            "principal": f"acct-{at % 2}",
            "model": "credit",
            "model_version": "3",
            "features": {
                "age": None if at == 4 else 20.5 + at,
                "active": at % 3 == 0,
                "country": None if at == 7 else ("DE", "FR", "IT")[at % 3],
            },
            "outputs": {"no": 0.25 + at / 32, "yes": 0.75 - at / 32},
        }
        for at in range(ROWS)
    ]


def named() -> QueryBatch:
    """What is to be read of ``rows``."""
    own = rows()
    return _batch(
        features=np.array([[float(row["features"]["active"]), row["features"]["age"] or 0] for row in own], np.float32),
        missing=np.array([[False, row["features"]["age"] is None] for row in own]),
        feature_names=("active", "age", "country"),
        texts=np.array([[row["features"]["country"]] for row in own], object),
        output_names=np.array([["no", "yes"]] * ROWS, object),
    )


def plain() -> QueryBatch:
    """What is to be read of ``rows`` whose vectors are lists of numbers."""
    features = [[np.nan if value is None else value for value in row["features"]] for row in _listed(rows())]
    numbers = np.array(features, np.float32)
    return _batch(features=np.nan_to_num(numbers), missing=np.isnan(numbers))


def _batch(**columns: Any) -> QueryBatch:
    own = rows()
    outputs = np.array([[*row["outputs"].values()] for row in own], np.float32)
    return QueryBatch(
        model="credit",
        model_version="3",
        output_kind="probabilities",
        event_ids=[row["event_id"] for row in own],
        occurred_at=np.array([row["occurred_at"] for row in own]),
        principals=["acct-0", "acct-1"],
        principal_index=np.array([at % 2 for at in range(ROWS)], np.int32),
        outputs=outputs,
        **columns,
    )


def _listed(own: list[Row]) -> list[Row]:
    """With lists of numbers in place of what has names."""
    return [
        row
        | {
            "features": [row["features"]["age"], float(row["features"]["active"]), 1.5],
            "outputs": [*row["outputs"].values()],
        }
        for row in own
    ]


def _flat(own: list[Row]) -> list[Row]:
    """A column each, as in a table."""
    return [
        {name: value for name, value in row.items() if name not in ("features", "outputs")}
        | row["features"]
        | {f"p_{name}": value for name, value in row["outputs"].items()}
        for row in own
    ]


def _as_json(own: list[Row]) -> list[Row]:
    return [row | {name: json.dumps(row[name]) for name in ("features", "outputs")} for row in own]


def _with(change: Callable[[Row], Row], own: list[Row]) -> list[Row]:
    return [row | change(row) for row in own]


@dataclass(frozen=True)
class Flavour:
    """``write`` puts ``rows`` below a folder and says what to read, with ``map`` as the option has it."""

    write: Callable[[Path], Path]
    map: str = ""
    is_named: bool = True


def _put(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(own: list[Row]) -> str:
    """``own`` as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in own)


def separated(own: list[Row], separator: str = ",", null: str = "", end: str = "\n") -> str:
    """``own`` as CSV."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    writer.writerow(own[0])
    writer.writerows([null if value is None else value for value in row.values()] for row in own)
    return file.getvalue()


def _parquet(own: list[Row], schema: dict[str, pa.DataType] | None = None, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        table = pa.Table.from_pylist(own)
        for name, kind in (schema or {}).items():
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, _array([row[name] for row in own], kind))
        pq.write_table(table, folder / "log.parquet", **options)
        return folder / "log.parquet"

    return write


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values).cast(kind) if pa.types.is_decimal(kind) else pa.array(values, kind)


def _pandas(folder: Path) -> Path:
    own = _with(lambda row: {name: np.array(row[name], float) for name in ("features", "outputs")}, _listed(rows()))
    frame = pd.DataFrame(own).set_index(pd.Index(range(100, 100 + ROWS), name="row_id"))
    frame["occurred_at"] = pd.to_datetime(frame["occurred_at"], unit="s", utc=True)
    frame["model"] = frame["model"].astype("category")
    frame.to_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def _hive(suffix: str) -> Callable[[Path], Path]:
    """A folder of two parts, whose folders name their model."""

    def write(folder: Path) -> Path:
        own = _flat(rows())
        for row in own:
            del row["model"], row["model_version"]
        place = folder / f"logs{suffix}" / "model=credit" / "model_version=3"
        place.mkdir(parents=True)
        for part in range(2):
            some, path = own[part * 6 : part * 6 + 6], place / f"part-{part}{suffix}"
            if suffix == ".parquet":
                pq.write_table(pa.Table.from_pylist(some), path)
            else:
                _put(path, separated(some) if suffix == ".csv" else lines(some))
        _put(place.parents[1] / "_SUCCESS", "")
        _put(place / f".part-0{suffix}.crc", b"\0")
        return place.parents[1]

    return write


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _text(written: Callable[[], str | bytes], name: str) -> Callable[[Path], Path]:
    return lambda folder: _put(folder / name, written())


P = "outputs=p_*"
_T = "occurred_at"
FLAVOURS: dict[str, Flavour] = {
    "jsonl": Flavour(_text(lambda: lines(rows()), "log.jsonl")),
    "jsonl of lists": Flavour(_text(lambda: lines(_listed(rows())), "log.ndjson"), is_named=False),
    "jsonl, a field a feature": Flavour(_text(lambda: lines(_flat(rows())), "log.jsonl"), P),
    "jsonl, JSON in texts": Flavour(
        _text(lambda: lines(_as_json(rows())), "log.json"), "features=features,outputs=outputs,model=@credit"
    ),
    "jsonl, other names": Flavour(
        _text(lambda: lines([{f"x.{name}": value for name, value in row.items()} for row in rows()]), "log.jsonl"),
        ",".join(f"{name}=x.{name}" for name in rows()[0]),
    ),
    "jsonl, milliseconds": Flavour(
        _text(lambda: lines(_with(lambda row: {_T: int(row[_T] * 1000)}, rows())), "log.jsonl")
    ),
    "gzip": Flavour(_text(lambda: gzip.compress(lines(rows()).encode()), "log.jsonl.gz")),
    "gzip of two": Flavour(
        _text(lambda: b"".join(gzip.compress(lines(own).encode()) for own in (rows()[:5], rows()[5:])), "log.jsonl.gz")
    ),
    "zstd": Flavour(_text(lambda: zstandard.compress(separated(_flat(rows())).encode()), "log.csv.zst"), P),
    "gzip without saying so": Flavour(_text(lambda: gzip.compress(separated(_flat(rows())).encode()), "log.csv"), P),
    "csv": Flavour(_text(lambda: separated(_flat(rows())), "log.csv"), P),
    "csv of Excel": Flavour(
        _text(lambda: b"\xef\xbb\xbf" + separated(_flat(rows()), ";", end="\r\n").encode(), "log.CSV"), P
    ),
    "csv of R": Flavour(_text(lambda: separated(_flat(rows()), null="NA"), "log.csv"), P),
    "csv of pandas": Flavour(_text(lambda: pd.DataFrame(_flat(rows())).to_csv(), "log.csv"), "outputs=p_no|p_yes"),
    "csv, text in RFC 3339": Flavour(
        _text(lambda: separated(_with(lambda row: {_T: _utc(row[_T]).isoformat()}, _flat(rows()))), "log.csv"), P
    ),
    "csv, text without zone": Flavour(
        _text(
            lambda: separated(_with(lambda row: {_T: str(_utc(row[_T]).replace(tzinfo=None))}, _flat(rows()))),
            "log.csv",
        ),
        P,
    ),
    "csv, microseconds": Flavour(
        _text(lambda: separated(_with(lambda row: {_T: int(row[_T] * 1e6)}, _flat(rows()))), "log.csv"), P
    ),
    "csv, JSON in cells": Flavour(_text(lambda: separated(_as_json(rows())), "log.csv")),
    "csv, lists in cells": Flavour(_text(lambda: separated(_as_json(_listed(rows()))), "log.csv"), is_named=False),
    "tsv": Flavour(_text(lambda: separated(_flat(rows()), "\t"), "log.tsv"), P),
    "a folder of CSV of Spark": Flavour(_hive(".csv"), P),
    "a folder of JSON of Spark": Flavour(_hive(".json"), P),
    "a folder of Parquet of Spark": Flavour(_hive(".parquet"), P),
    "parquet": Flavour(_parquet(_listed(rows())), is_named=False),
    "parquet of pandas": Flavour(_pandas, is_named=False),
    "parquet of large lists": Flavour(
        _parquet(
            _listed(rows()),
            {"features": pa.large_list(pa.float32()), "outputs": pa.list_(pa.float32(), 2), "model": pa.large_string()},
        ),
        is_named=False,
    ),
    "parquet of Spark": Flavour(
        _parquet(
            _with(lambda row: {_T: _utc(row[_T])}, _listed(rows())),
            use_deprecated_int96_timestamps=True,
            flavor="spark",
        ),
        is_named=False,
    ),
    "parquet of decimals": Flavour(
        _parquet(
            _with(lambda row: {"outputs": [Decimal(str(value)) for value in row["outputs"]]}, _listed(rows())),
        ),
        is_named=False,
    ),
    "parquet, a column a feature": Flavour(
        _parquet(_flat(rows()), {"country": pa.dictionary(pa.int8(), pa.string()), "p_no": pa.decimal128(7, 6)}), P
    ),
    "parquet, structs": Flavour(_parquet(rows())),
    "parquet, JSON in texts": Flavour(_parquet(_as_json(rows()))),
    "parquet, a map": Flavour(_parquet(rows(), {"outputs": pa.map_(pa.string(), pa.float64())})),
    "parquet, the best classes": Flavour(
        _parquet(
            _with(
                lambda row: {"outputs": [{"label": name, "score": own} for name, own in row["outputs"].items()]}, rows()
            )
        )
    ),
    "parquet of Polars": Flavour(lambda _: GOLDEN / "polars.parquet", is_named=False),
    "parquet of Polars, structs": Flavour(lambda _: GOLDEN / "polars_structs.parquet"),
    "parquet of DuckDB": Flavour(lambda _: GOLDEN / "duckdb.parquet", is_named=False),
    "parquet of DuckDB, a map": Flavour(lambda _: GOLDEN / "duckdb_map.parquet"),
    "csv of DuckDB": Flavour(lambda _: GOLDEN / "duckdb.csv.gz", P),
}
