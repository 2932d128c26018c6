"""Many queries of one model version a record, in columns: what the SDK writes.
``schemas/weirguard.packed-queries.v1.schema.json``.

The value is a msgpack map. Numeric columns are binary, little-endian and row by row: float32, but for
``occurred_at`` (float64), ``principal_index`` (int32), ``leaf`` (int64) and ``missing`` (one bit an
entry, lowest bit first). Every such length must follow from the number of event ids and the two widths,
so nothing is ever allocated on a claim.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from detector.contracts.batches import join_principals, no_queries, select
from detector.contracts.codecs.limits import DIMENSIONS, OUTPUTS, PACKED_BYTES, is_time, names_one
from detector.contracts.codecs.reading import Envelope, by_layout, check_schema, check_size, read
from detector.contracts.codecs.screening import TEXT_COLUMNS, check_model, screen
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import BadRow, Count, CountKind, DecodedQueries, DecodedRun, OutputKind, QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA: Final = "weirguard.packed-queries/1"
PACKED_CONTENT_TYPE: Final = "application/vnd.weirguard.queries+msgpack"


@dataclass(slots=True)
class PackedCount:
    """Queries without features, as they are written; the model is the record's."""

    principal: str
    kind: CountKind
    queries: int
    occurred_at: float
    reason: str = ""


@dataclass(slots=True)
class PackedQueries:
    """The record as it is written."""

    schema: str
    model: str
    model_version: str
    output_kind: OutputKind
    dimension: int
    output_width: int
    event_ids: list[str]
    occurred_at: bytes
    principals: list[str]
    principal_index: bytes
    features: bytes
    outputs: bytes
    missing: bytes | None = None
    hardness: bytes | None = None
    leaf: bytes | None = None
    specification: bytes | None = None
    served_mode: list[str] | None = None
    network_prefix: list[str] | None = None
    organisation: list[str] | None = None
    user_agent_hash: list[str] | None = None
    counts: list[PackedCount] = field(default_factory=list)


def decode_packed(value: bytes | None) -> DecodedQueries:
    """The queries and counts in ``value``.

    Raises InvalidRecord for a structural error; a row that breaks a rule is among ``bad_rows`` and the
    others survive. A record without rows carries counts alone.
    """
    import numpy as np

    run = decode_packed_run([value])
    bad = [fault for _, fault in run.bad]
    if bad and bad[0].row < 0:
        raise InvalidRecord(bad[0].reason, bad[0].detail)
    batch, _, rows = run.parts[0] if run.parts else (None, None, np.zeros(0, dtype=np.int64))
    return DecodedQueries(batch, rows, [count for _, count in run.counts], bad)


def decode_packed_run(values: Sequence[bytes | None]) -> DecodedRun:
    """The queries and counts in the records ``values``. Nothing is raised for a bad one; its reason is one of
    ``limits.REASONS``."""
    run = DecodedRun()
    parsed: list[_Parsed] = []
    for place, value in enumerate(values):
        try:
            parsed.append(_parse(place, value))
        except InvalidRecord as error:
            run.refuse(place, error)
    for alike in by_layout((one for one in parsed if one.rows), _layout):
        _screen(alike, run)
    run.counts.extend((one.place, count) for one in parsed for count in one.counts)
    return run


def encode_packed(batch: QueryBatch, counts: Sequence[Count] = (), most: int = PACKED_BYTES) -> bytes:
    """``batch`` and ``counts`` of the same model as one record value, for principals of one partition.

    Raises InvalidRecord ``too-large`` over ``most`` bytes: cut the batch.
    """
    value = _encoder()(_packed(batch, counts))
    if len(value) > most:
        raise InvalidRecord("too-large", f"{len(batch)} queries pack into {len(value)} bytes, over {most}")
    return value


def excerpt(value: bytes, rows: Sequence[int], counts: Sequence[Count] = ()) -> bytes:
    """``rows`` (indices) of the packed record ``value``, as they came and unscreened, and ``counts`` of its model, as a
    record of their own that names nobody else. Raises InvalidRecord where the structure of ``value`` is wrong."""
    parsed = _parse(0, value)
    packed = parsed.packed
    if not rows:
        return _encoder()(_packed(no_queries(packed.model, packed.model_version), counts))
    return _encoder()(_packed(select(_batch([packed], [parsed.rows]), rows), counts))


@cache
def _decoder() -> Callable[[bytes], PackedQueries]:
    import msgspec

    return msgspec.msgpack.Decoder(PackedQueries).decode


@cache
def _envelope() -> Callable[[bytes], Envelope]:
    import msgspec

    return msgspec.msgpack.Decoder(Envelope).decode


@cache
def _encoder() -> Callable[[dict[str, Any]], bytes]:
    import msgspec

    return msgspec.msgpack.Encoder().encode


def _count(model: str, count: PackedCount) -> Count:
    if not names_one(count.principal):
        raise InvalidRecord("identity", "the principal of a count must be 1 to 256 plain characters and not '*'")
    if not 0 < count.queries < 2**63:
        raise InvalidRecord("counts", f"a count says {count.queries} queries; send 1 or more, or no count")
    if not is_time(count.occurred_at):
        raise InvalidRecord("time", "occurred_at of a count must be seconds (not milliseconds) since 1970")
    return Count(model, count.principal, count.kind, count.queries, count.occurred_at, count.reason)


@dataclass(slots=True)
class _Parsed:
    """One record whose columns have the lengths that its header calls for."""

    place: int
    packed: PackedQueries
    rows: int
    counts: list[Count]


def _parse(place: int, value: bytes | None) -> _Parsed:
    packed = read(check_size(value), _decoder(), _envelope(), SCHEMA)
    check_schema(packed.schema, SCHEMA)
    counts = [_count(packed.model, count) for count in packed.counts]
    check_model(packed.model, packed.model_version)
    rows = len(packed.event_ids)
    _check_widths(packed, rows)
    _check_lengths(packed, rows)
    _check_index(packed, rows)
    return _Parsed(place, packed, rows, counts)


def _check_widths(packed: PackedQueries, rows: int) -> None:
    """Dimension and output width must be small enough to multiply; a record of counts alone may say 0."""
    for what, width, limit in (
        ("dimension", packed.dimension, DIMENSIONS),
        ("output_width", packed.output_width, OUTPUTS),
    ):
        if not (1 if rows else 0) <= width <= limit:
            raise InvalidRecord("dimension", f"{what} is {width}; send 1 to {limit}")


def _check_lengths(packed: PackedQueries, rows: int) -> None:
    for name, nbytes in _ENTRY_BYTES.items():
        data: bytes | None = getattr(packed, name)
        if data is not None and len(data) != (expected := rows * nbytes * _width(packed, name)):
            raise InvalidRecord("length", f"{name} has {len(data)} bytes; {rows} event ids call for {expected}")
    bits = rows * packed.dimension
    if packed.missing is not None and len(packed.missing) != (expected := (bits + 7) // 8):
        detail = f"missing has {len(packed.missing)} bytes; {rows} rows of {packed.dimension} bits call for {expected}"
        raise InvalidRecord("length", detail)
    for name in TEXT_COLUMNS:
        texts: list[str] | None = getattr(packed, name)
        if texts is not None and len(texts) != rows:
            raise InvalidRecord("length", f"{name} has {len(texts)} entries for {rows} event ids")


def _check_index(packed: PackedQueries, rows: int) -> None:
    index = struct.unpack(f"<{rows}i", packed.principal_index)
    if rows and not (min(index) >= 0 and max(index) < len(packed.principals)):
        raise InvalidRecord("length", f"principal_index points outside the {len(packed.principals)} principals")


def _width(packed: PackedQueries, name: str) -> int:
    """Entries a row of a numeric column."""
    if name == "features":
        return packed.dimension
    if name == "outputs":
        return packed.output_width
    return 2 if name == "specification" else 1


def _layout(parsed: _Parsed) -> tuple[object, ...]:
    """What records must agree in to be joined."""
    packed = parsed.packed
    absent = tuple(getattr(packed, name) is None for name in _OPTIONAL)
    return packed.model, packed.model_version, packed.output_kind, packed.dimension, packed.output_width, absent


def _screen(alike: list[_Parsed], run: DecodedRun) -> None:
    """Screen the rows of ``alike``, records of one layout, as one batch, and say whose each of them is."""
    import numpy as np

    rows = [parsed.rows for parsed in alike]
    before = [0, *accumulate(rows[:-1])]
    records = np.array([parsed.place for parsed in alike]).repeat(rows)
    within = np.arange(len(records)) - np.array(before).repeat(rows)
    decoded = screen(_batch([parsed.packed for parsed in alike], rows))
    if decoded.bad_rows:
        for bad in decoded.bad_rows:
            run.bad.append((int(records[bad.row]), BadRow(int(within[bad.row]), bad.reason, bad.detail)))
        records, within = records[decoded.rows], within[decoded.rows]
    if decoded.batch is not None:
        run.parts.append((decoded.batch, records, within))


def _batch(alike: list[PackedQueries], rows: list[int]) -> QueryBatch:
    first = alike[0]
    columns: dict[str, Any] = {name: _column(alike, name) for name in _DTYPES if getattr(first, name) is not None}
    columns |= {name: _texts(alike, name) for name in TEXT_COLUMNS if getattr(first, name) is not None}
    names = [packed.principals for packed in alike]
    principals, columns["principal_index"] = join_principals(names, rows, columns["principal_index"])
    return QueryBatch(
        model=first.model,
        model_version=first.model_version,
        output_kind=first.output_kind,
        event_ids=[event_id for packed in alike for event_id in packed.event_ids],
        principals=principals,
        missing=None if first.missing is None else _missing(alike, rows),
        **columns,
    )


def _column(alike: list[PackedQueries], name: str) -> NDArray[Any]:
    """A numeric column of all rows: a view of the bytes of a record that is alone."""
    import numpy as np

    column = np.frombuffer(b"".join([getattr(packed, name) for packed in alike]), dtype=_DTYPES[name])
    return column.reshape(-1, _width(alike[0], name)) if name in _MATRICES else column


def _missing(alike: list[PackedQueries], rows: list[int]) -> NDArray[np.bool_]:
    import numpy as np

    width = alike[0].dimension
    bits = [
        np.unpackbits(np.frombuffer(packed.missing or b"", dtype=np.uint8), count=count * width, bitorder="little")
        for packed, count in zip(alike, rows, strict=True)
    ]
    return np.concatenate(bits).reshape(-1, width).view(np.bool_)


def _texts(alike: list[PackedQueries], name: str) -> list[str]:
    return [text for packed in alike for text in getattr(packed, name)]


def _packed(batch: QueryBatch, counts: Sequence[Count]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "model": batch.model,
        "model_version": batch.model_version,
        "output_kind": batch.output_kind,
        "dimension": batch.features.shape[1],
        "output_width": batch.outputs.shape[1],
        "event_ids": batch.event_ids,
        "principals": batch.principals,
        "counts": [_pack_count(batch.model, count) for count in counts],
    }
    for name, dtype in _DTYPES.items():
        if (column := getattr(batch, name)) is not None:
            record[name] = column.astype(dtype, copy=False).tobytes()
    record.update({name: texts for name in TEXT_COLUMNS if (texts := getattr(batch, name)) is not None})
    if batch.missing is not None:
        record["missing"] = _bits(batch.missing)
    return record


_DTYPES = {
    "occurred_at": "<f8",
    "principal_index": "<i4",
    "features": "<f4",
    "outputs": "<f4",
    "hardness": "<f4",
    "leaf": "<i8",
    "specification": "<f4",
}
_ENTRY_BYTES = {name: int(dtype[2:]) for name, dtype in _DTYPES.items()}
_MATRICES = ("features", "outputs", "specification")
_OPTIONAL = ("missing", "hardness", "leaf", "specification", *TEXT_COLUMNS)


def _bits(missing: NDArray[np.bool_]) -> bytes:
    import numpy as np

    return np.packbits(missing.reshape(-1), bitorder="little").tobytes()


def _pack_count(model: str, count: Count) -> dict[str, Any]:
    if count.model != model:
        raise InvalidRecord("counts", "a packed record counts queries of its own model alone; send another record")
    return {
        "principal": count.principal,
        "kind": count.kind,
        "queries": count.queries,
        "occurred_at": count.occurred_at,
        "reason": count.reason,
    }
