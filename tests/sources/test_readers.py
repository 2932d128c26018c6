from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from detector.contracts.batches import concatenate, take
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import BadRow, QueryBatch
from detector.sources import LogReader, format_of
from tests.contracts.batches import assert_same_rows, make_batch, optional_columns, principals_of
from tests.sources.logs import rows_of, write_jsonl, write_parquet

Read = tuple[list[QueryBatch], list[int], list[BadRow]]


def _read(path: Path) -> Read:
    portions = list(format_of(path).read(path, LogReader()))
    batches = list(concatenate(portion.batch for portion in portions if portion.batch is not None))
    rows = [row for portion in portions for row in portion.rows.tolist()]
    return batches, rows, [bad for portion in portions for bad in portion.bad_rows]


def _write(folder: Path, suffix: str, *batches: QueryBatch) -> Path:
    if suffix == "jsonl":
        return write_jsonl(folder / "log.jsonl", *batches)
    return write_parquet(folder / "log.parquet", [row for batch in batches for row in rows_of(batch)])


both = pytest.mark.parametrize("suffix", ["jsonl", "parquet"])


@both
def test_a_log_is_read_in_file_order(tmp_path: Path, suffix: str) -> None:
    batch = make_batch(rows=2500)
    batches, rows, bad = _read(_write(tmp_path, suffix, batch))
    assert (rows, bad) == (list(range(2500)), [])
    assert_same_rows(batches[0], batch)


@both
def test_optional_columns_are_read(tmp_path: Path, suffix: str) -> None:
    batch = make_batch(rows=6, **optional_columns(6, 4))
    batch.features[batch.missing] = 0
    batches, _, bad = _read(_write(tmp_path, suffix, batch))
    assert not bad
    assert_same_rows(batches[0], batch)


@both
def test_rows_of_other_shapes_may_follow_one_another(tmp_path: Path, suffix: str) -> None:
    written = [
        make_batch(rows=3),
        make_batch(rows=2, dimension=7),
        make_batch(rows=1, model="faces"),
        make_batch(rows=2, hardness=np.ones(2, dtype=np.float32)),
        make_batch(rows=2, outputs=np.ones((2, 1), dtype=np.float32), output_kind="label"),
        make_batch(rows=3),
    ]
    batches, rows, bad = _read(_write(tmp_path, suffix, *written))
    assert (rows, bad) == (list(range(13)), [])
    for found, expected in zip(batches, written, strict=True):
        assert_same_rows(found, expected)


@both
def test_a_bad_row_is_reported_by_its_place_and_the_others_are_read(tmp_path: Path, suffix: str) -> None:
    batch = make_batch(rows=7)
    batch.outputs[2, 1] = np.nan
    batch.outputs[4] = -1
    batches, rows, bad = _read(_write(tmp_path, suffix, batch))
    assert [(fault.row, fault.reason) for fault in bad] == [(2, "non-finite"), (4, "outputs")]
    assert rows == [0, 1, 3, 5, 6]
    assert_same_rows(batches[0], take(batch, np.array(rows)))


@both
def test_rows_are_counted_without_reading_them(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path, suffix, make_batch(rows=11))
    assert format_of(path).rows(path) == 11


def _parquet(folder: Path, rows: list[dict[str, Any]] | None = None, **columns: Any) -> Read:
    return _read(write_parquet(folder / "log.parquet", rows or rows_of(make_batch(rows=3)), **columns))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_a_timestamp_column_is_seconds_utc_whatever_its_unit_and_zone(
    tmp_path: Path, unit: str, zone: str | None
) -> None:
    moments = [datetime(2026, 1, 31, 12, 0, second, tzinfo=UTC) for second in range(3)]
    column = pa.array([moment.replace(tzinfo=None) for moment in moments], pa.timestamp(unit))
    batches, _, _ = _parquet(tmp_path, occurred_at=column.cast(pa.timestamp(unit, zone)))
    assert batches[0].occurred_at.tolist() == [moment.timestamp() for moment in moments]


def test_whole_seconds_are_a_time(tmp_path: Path) -> None:
    batches, _, _ = _parquet(tmp_path, occurred_at=pa.array([5, 6, 7]))
    assert batches[0].occurred_at.tolist() == [5.0, 6.0, 7.0]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 4)])
def test_any_list_of_numbers_will_do(tmp_path: Path, kind: pa.DataType) -> None:
    batch = make_batch(rows=3)
    batches, _, bad = _parquet(tmp_path, features=pa.array(batch.features.tolist(), kind))
    assert not bad
    assert_same_rows(batches[0], batch)


def test_numbers_serve_as_names_and_other_columns_are_ignored(tmp_path: Path) -> None:
    ids = pa.array([17, 18, 17])
    batches, _, _ = _parquet(tmp_path, principal=ids, event_id=ids, latency_ms=pa.array([1.5, None, 2.5]))
    assert batches[0].principals == ["17", "18"]
    assert batches[0].event_ids == ["17", "18", "17"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"features": None}, "structure"),
        ({"principal": None}, "structure"),
        ({"occurred_at": None}, "time"),
        ({"features": []}, "dimension"),
        ({"outputs": [1.0, None]}, "non-finite"),
        ({"model": ""}, "identity"),
        ({"output_kind": "logits"}, "structure"),
        ({"occurred_at": -1.0}, "time"),
    ],
)
def test_a_bad_row_of_a_table_has_a_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    rows = rows_of(make_batch(rows=5))
    rows[3] |= change
    batches, good, bad = _parquet(tmp_path, rows)
    assert [(fault.row, fault.reason) for fault in bad] == [(3, reason)]
    whose = principals_of(make_batch(rows=5))[3]
    assert (bad[0].model, bad[0].principal) == (change.get("model", "digits"), change.get("principal", whose) or "")
    assert good == [0, 1, 2, 4]
    assert sum(map(len, batches)) == 4


ODD_CELLS: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({"features": [1.0, None, float("nan"), 4.0]}, {}),
    ({"features": [1e39, float("-inf"), 3.0, 4.0]}, {"clipped": 1}),
    ({"principal": "*"}, {"principal": 1}),
    ({"principal": "p" * 300}, {"principal": 1}),
    ({"event_id": None}, {"event_id": 1}),
    ({"event_id": "e\n"}, {"event_id": 1}),
    ({"missing": [True]}, {"column": 1}),
    ({"specification": [1.0]}, {"column": 1}),
    ({"hardness": float("inf")}, {"number": 1}),
    ({"organisation": "a\x00"}, {"attribute": 1}),
    ({"output_kind": None}, {}),
]


@both
@pytest.mark.parametrize(("change", "repaired"), ODD_CELLS)
def test_an_odd_cell_does_not_cost_its_row(
    tmp_path: Path, suffix: str, change: dict[str, Any], repaired: dict[str, int]
) -> None:
    rows = rows_of(make_batch(rows=5))
    rows[3] |= change
    if suffix == "parquet":
        path = write_parquet(tmp_path / "log.parquet", rows)
    else:
        path = tmp_path / "log.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    portions = list(format_of(path).read(path, LogReader()))
    assert sum((portion.repaired for portion in portions), Counter()) == repaired
    batches, good, bad = _read(path)
    assert not bad
    assert good == [0, 1, 2, 3, 4]
    for batch in batches:
        assert np.isfinite(batch.features).all()
        assert batch.missing is None or not batch.features[batch.missing].any()


@pytest.mark.parametrize(
    ("name", "column", "bad", "detail"),
    [
        ("features", [["1", "2"], ["1", "n/a"], ["3", None]], [1], r"features\[1\] is 'n/a', which is not a number"),
        ("outputs", [["1"], ["x"], ["1"]], [1], r"outputs\[0\] is 'x'"),
        ("features", [[b"1"], [b"\xff"], [b"2"]], [1], r"features\[0\] is b'.xff'"),
        ("principal", [1.0, float("nan"), 2.5], [1], "principal is null or not a text"),
    ],
)
def test_a_cell_that_is_no_number_costs_its_row_alone(
    tmp_path: Path, name: str, column: list[Any], bad: list[int], detail: str
) -> None:
    _, good, faults = _parquet(tmp_path, **{name: pa.array(column)})
    assert [(fault.row, fault.reason, fault.model) for fault in faults] == [(row, "structure", "digits") for row in bad]
    assert all(re.search(detail, fault.detail) for fault in faults)
    assert all(bool(fault.principal) == (name != "principal") for fault in faults)
    assert good == [row for row in range(3) if row not in bad]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("hardness", ["0.5", "hard", None]),
        ("leaf", [1.0, 2.5, None]),
        ("leaf", pa.array([1, 2**63, None], pa.uint64())),
        ("missing", [["a"] * 4, None, None]),
        ("specification", [["1", "x"], None, ["1", "2"]]),
    ],
)
def test_an_optional_cell_of_another_kind_is_left_out(tmp_path: Path, name: str, column: Any) -> None:
    path = write_parquet(tmp_path / "log.parquet", rows_of(make_batch(rows=3)), **{name: pa.array(column)})
    portions = list(format_of(path).read(path, LogReader()))
    assert sum((portion.repaired for portion in portions), Counter()) == {"column": 1}
    assert _read(path)[1:] == ([0, 1, 2], [])


@pytest.mark.parametrize("text", [b"a\xff", b"\xed\xa0\x80"])
@pytest.mark.parametrize("name", ["principal", "event_id", "organisation"])
@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.large_string()])
def test_text_that_is_not_utf_8_does_not_stop_a_file(tmp_path: Path, text: bytes, name: str, kind: pa.DataType) -> None:
    column = pa.array([b"x", text, b"y"], pa.large_binary() if kind == pa.large_string() else pa.binary()).view(kind)
    path = write_parquet(tmp_path / "log.parquet", rows_of(make_batch(rows=3)), **{name: column})
    batches, good, bad = _read(path)
    assert (good, bad) == ([0, 1, 2], [])
    assert all(str(batch.principals + batch.event_ids + (batch.organisation or [])).encode() for batch in batches)


def test_nested_lists_are_told_to_be_flattened(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="flatten features"):
        _parquet(tmp_path, features=pa.array([[[1.0], [2.0]]] * 3))


def test_what_python_writes_as_json_is_read(tmp_path: Path) -> None:
    rows = rows_of(make_batch(rows=3, principals=["7", "8", "9"]))
    rows[1]["features"][2] = float("nan")
    rows[2]["principal"] = 8
    path = tmp_path / "log.jsonl"
    path.write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    batches, good, bad = _read(path)
    assert (good, bad) == ([0, 1, 2], [])
    assert principals_of(batches[0])[2] == "8"
    assert batches[0].missing is not None
    assert np.argwhere(batches[0].missing).tolist() == [[1, 2]]


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(rows_of(make_batch(rows=1))[0]), "utf-16")
    with pytest.raises(ConfigurationError, match="UTF-16; save it as UTF-8"):
        _read(path)


def test_a_missing_feature_of_a_table_may_be_null(tmp_path: Path) -> None:
    rows = [row | {"features": [1.0, None], "missing": [False, True]} for row in rows_of(make_batch(rows=2))]
    batches, _, bad = _parquet(tmp_path, rows)
    assert not bad
    assert batches[0].features.tolist() == [[1, 0], [1, 0]]


def test_blank_lines_are_skipped_and_a_line_without_end_is_read(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "log.ndjson", make_batch(rows=2))
    path.write_bytes(b"\n  \r\n" + path.read_bytes().strip())
    assert _read(path)[1:] == ([2, 3], [])


def test_a_huge_line_is_refused_and_the_next_one_read(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "log.jsonl", make_batch(rows=1))
    path.write_bytes(b"x" * 5_000_000 + b"\n" + path.read_bytes())
    _, rows, bad = _read(path)
    assert (rows, [(fault.row, fault.reason) for fault in bad]) == ([1], [(0, "too-large")])


def test_a_line_without_a_time_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "log.jsonl", make_batch(rows=2))
    path.write_bytes(path.read_bytes().replace(b'"occurred_at"', b'"at"', 1))
    assert [(fault.row, fault.reason) for fault in _read(path)[2]] == [(0, "time")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.npz", b"PK", r"cannot read \.npz; write the log as one of \.jsonl.*\.parquet"),
        ("log", b"", "without a suffix"),
        ("log.parquet", b"PAR1 not really", "cannot read it as Parquet"),
        ("absent.parquet", None, "no such file"),
    ],
)
def test_what_cannot_be_a_log_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        _read(path)
