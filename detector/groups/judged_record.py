"""Judged queries as they cross Kafka, ``schemas/weirguard.judged-queries.v1.schema.json``: from the owner of each
account to the owner that watches the groups of their model version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.limits import PACKED_BYTES, check_schema, is_time
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import NAME_CHARACTERS, is_name
from detector.core.state.arrays import Array
from detector.groups.queries import JudgedQueries

SCHEMA: Final = "weirguard.judged-queries/1"
_ROW_BYTES = 48
_HEAD_BYTES = 4_096
_EXCERPT = 200

Source = Literal["queries", "rekeyed"]


@dataclass(frozen=True, slots=True)
class JudgedRecord:
    """``queries`` of one model version, n rows, that the profile with the hash ``profile`` judged. They were read from
    ``source``, partition ``partition``: ``offset`` int64 (n,) of their records, in which they are ``queries.row``;
    rows are in that order. ``time`` float64 (n,): policy time, seconds UTC. ``learning`` bool (n,): rows of the
    backlog."""

    model: str
    model_version: str
    profile: str
    source: Source
    partition: int
    queries: JudgedQueries
    offset: Array
    time: NDArray[np.float64]
    learning: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offset)

    def between(self, start: int, end: int) -> JudgedRecord:
        """Returns the rows from ``start`` to ``end``."""
        rows = slice(start, end)
        return replace(
            self,
            queries=self.queries.between(start, end),
            offset=self.offset[rows],
            time=self.time[rows],
            learning=self.learning[rows],
        )

    def after(self, offset: int, row: int) -> JudgedRecord:
        """Returns the rows that come after this one of their source partition."""
        before = (self.offset < offset) | ((self.offset == offset) & (self.queries.row <= row))
        return self.between(int(np.count_nonzero(before)), len(self))


class _Columns(msgspec.Struct, forbid_unknown_fields=False):
    """The record in its written form: binary columns are little-endian, row by row."""

    schema: str
    model: str
    model_version: str
    profile: str
    source: Source
    partition: int
    principals: list[str]
    measures: int
    dimension: int
    axes: int
    cells_each: int
    principal: bytes
    number: bytes
    row: bytes
    offset: bytes
    time: bytes
    learning: bytes
    due: bytes
    distance: bytes
    deviations: bytes
    linked: bytes
    features: bytes
    points: bytes
    cells: bytes
    label: bytes


COLUMNS: Final = {
    **dict.fromkeys(("principal", "due", "linked", "cells"), "<i4"),
    **dict.fromkeys(("number", "row", "offset", "label"), "<i8"),
    **dict.fromkeys(("time", "distance", "deviations"), "<f8"),
    **dict.fromkeys(("features", "points"), "<f4"),
    "learning": "|b1",
}
"""The binary columns and their dtypes."""
_WIDTHS: Final = {"deviations": "measures", "features": "dimension", "points": "axes", "cells": "cells_each"}
_OF_ROWS: Final = ("principal", "number", "row", "offset", "time", "learning")
_OF_DUE: Final = ("due", "distance", "deviations")
_OF_LINKED: Final = ("linked", "features", "points", "cells", "label")
_OWN: Final = ("offset", "time", "learning")
_QUERY_FIELDS: Final = tuple(field.name for field in fields(JudgedQueries) if field.name != "principals")


class _Head(msgspec.Struct):
    """The only field that is read before the record is validated."""

    schema: str | None = None


_decoder = msgspec.msgpack.Decoder(_Columns)


def encode_judged(record: JudgedRecord) -> Iterator[bytes]:
    """Yields ``record`` in values of at most ``PACKED_BYTES``, as far as single rows allow."""
    ends = np.cumsum(_row_bytes(record.queries))
    start = 0
    while start < len(record):
        before = int(ends[start - 1]) if start else 0
        end = max(int(np.searchsorted(ends, before + PACKED_BYTES - _HEAD_BYTES, "right")), start + 1)
        yield _encode(record.between(start, end))
        start = end


def decode_judged(value: bytes | None) -> JudgedRecord:
    """Returns the record in ``value``, whose arrays are read-only. Raises InvalidRecord."""
    if not value:
        raise InvalidRecord("empty", "the record has no value")
    try:
        check_schema(msgspec.msgpack.decode(value, type=_Head).schema, SCHEMA)
        columns = _decoder.decode(value)
    except msgspec.ValidationError as error:
        raise InvalidRecord("structure", str(error)[:_EXCERPT]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRecord("syntax", str(error)[:_EXCERPT]) from None
    record = _record(columns)
    _check(record)
    return record


def _row_bytes(queries: JudgedQueries) -> Array:
    """Returns int64 (n,): the approximate bytes of each row."""
    nbytes = np.full(len(queries), _ROW_BYTES)
    used = np.bincount(queries.principal, minlength=len(queries.principals))
    longest = np.array([len(name.encode()) for name in queries.principals], np.int64)
    nbytes += (longest // np.maximum(used, 1) + 1)[queries.principal]
    nbytes[queries.due] += 12 + 8 * queries.deviations.shape[1]
    nbytes[queries.linked] += 12 + 4 * sum(
        column.shape[1] for column in (queries.features, queries.points, queries.cells)
    )
    return nbytes


def _encode(record: JudgedRecord) -> bytes:
    queries = record.queries
    used, principal = np.unique(queries.principal, return_inverse=True)
    arrays: dict[str, Any] = {name: getattr(queries, name) for name in _QUERY_FIELDS}
    arrays |= {name: getattr(record, name) for name in _OWN} | {"principal": principal}
    head = {name: getattr(record, name) for name in ("model", "model_version", "profile", "source", "partition")}
    names = [queries.principals[at] for at in used.tolist()]
    widths = {width: arrays[name].shape[1] for name, width in _WIDTHS.items()}
    columns = {name: np.ascontiguousarray(column, COLUMNS[name]).tobytes() for name, column in arrays.items()}
    return msgspec.msgpack.encode({"schema": SCHEMA, **head, "principals": names, **widths, **columns})


def _record(columns: _Columns) -> JudgedRecord:
    """Returns the record of ``columns``. Raises InvalidRecord where their lengths do not agree."""
    arrays = {name: _column(columns, name) for name in COLUMNS}
    for names in (_OF_ROWS, _OF_DUE, _OF_LINKED):
        lengths = {len(arrays[name]) for name in names}
        if len(lengths) > 1:
            raise InvalidRecord(
                "length", f"the columns {', '.join(names)} have {sorted(lengths)} rows; make them agree"
            )
    queries = JudgedQueries(principals=columns.principals, **{name: _wide(arrays[name]) for name in _QUERY_FIELDS})
    return JudgedRecord(
        columns.model,
        columns.model_version,
        columns.profile,
        columns.source,
        columns.partition,
        queries,
        *(arrays[name] for name in _OWN),
    )


def _column(columns: _Columns, name: str) -> Array:
    data, dtype = getattr(columns, name), np.dtype(COLUMNS[name])
    width = getattr(columns, _WIDTHS[name]) if name in _WIDTHS else 1
    if width < 1 or len(data) % (dtype.itemsize * width):
        raise InvalidRecord("length", f"{name} has {len(data)} bytes, which are no rows of {width} {dtype.name}")
    values: Array = np.frombuffer(data, dtype)
    return values.reshape(-1, width) if name in _WIDTHS else values


def _wide(values: Array) -> Array:
    """Returns int32 columns as int64, which the loops read."""
    return values.astype(np.int64) if values.dtype == np.int32 else values


def _check(record: JudgedRecord) -> None:
    """Raises InvalidRecord for values that the compiled loops cannot take."""
    queries, count = record.queries, len(record)
    for name in (record.model, record.model_version, record.profile, *queries.principals):
        if not is_name(name):
            raise InvalidRecord("identity", f"a name must be 1 to {NAME_CHARACTERS} plain characters and not '*'")
    if not count or record.partition < 0:
        raise InvalidRecord("value", "a record needs a row, and a partition of at least 0")
    _check_positions(record)
    if not all(map(is_time, record.time.tolist())):
        raise InvalidRecord("time", "time must be in seconds (not milliseconds) since 1970")
    numbers = queries.distance, queries.deviations, queries.features, queries.points
    if not all(np.isfinite(column).all() for column in numbers):
        raise InvalidRecord("non-finite", "distance, deviations, features and points must be finite")


def _check_positions(record: JudgedRecord) -> None:
    queries, count = record.queries, len(record)
    inside = {"principal": len(queries.principals), "due": count, "linked": count}
    for name, end in inside.items():
        values = getattr(queries, name)
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < end:
            raise InvalidRecord("value", f"{name} must be from 0 to below {end}")
    for name in ("due", "linked"):
        if (np.diff(getattr(queries, name)) <= 0).any():
            raise InvalidRecord("value", f"{name} must ascend")
    at = np.diff(record.offset), np.diff(queries.row)
    if ((at[0] < 0) | ((at[0] == 0) & (at[1] <= 0))).any():
        raise InvalidRecord("value", "offset and row must ascend together")
    if min(int(column.min()) for column in (queries.number, queries.row, record.offset)) < 0:
        raise InvalidRecord("value", "number, row and offset must be at least 0")
