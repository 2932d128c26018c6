"""Many queries of one model version a record, in columns (``packed_form``): what the SDK writes."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from detector.contracts.batches import join_principals, select
from detector.contracts.codecs.limits import (
    DIMENSIONS,
    MOST_COUNTED,
    OUTPUTS,
    PACKED_BYTES,
    is_time,
    is_word,
)
from detector.contracts.codecs.mending import TEXT_COLUMNS, with_names
from detector.contracts.codecs.packed_form import (
    DTYPES,
    ENTRY_BYTES,
    LOOSE_SCHEMA,
    MATRICES,
    OPTIONAL,
    PACKED_CONTENT_TYPE,
    SCHEMA,
    PackedQueries,
    width,
)
from detector.contracts.codecs.packed_loose import check_loose, loose_columns, loose_fields, text_width
from detector.contracts.codecs.packed_salvage import model_in, packed_fields, principals_in, rows_in, salvaged
from detector.contracts.codecs.reading import by_layout, check_schema, check_size
from detector.contracts.codecs.screening import NO_MODEL, screen
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import names_one, usable_principal
from detector.contracts.queries import Count, DecodedQueries, DecodedRun, QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "PACKED_CONTENT_TYPE",
    "SCHEMA",
    "PackedQueries",
    "decode_packed",
    "decode_packed_run",
    "encode_packed",
    "excerpt",
]


def decode_packed(value: bytes | None, *, timestamp: float | None = None) -> DecodedQueries:
    """The queries and counts in ``value``; ``timestamp`` as in ``decode_packed_run``.

    Raises InvalidRecord for a structural error; a row that breaks a rule is among ``bad_rows`` and the
    others survive. A record without rows carries counts alone.
    """
    import numpy as np

    run = decode_packed_run([value], [timestamp])
    bad = [fault for _, fault in run.bad]
    if bad and bad[0].row < 0:
        raise InvalidRecord(bad[0].reason, bad[0].detail)
    batch, _, rows = run.parts[0] if run.parts else (None, None, np.zeros(0, dtype=np.int64))
    return DecodedQueries(batch, rows, [count for _, count in run.counts], bad, run.repaired)


def decode_packed_run(values: Sequence[bytes | None], timestamps: Sequence[float | None]) -> DecodedRun:
    """The queries and counts in the records ``values``. Nothing is raised for a bad one; its reason is one of
    ``limits.REASONS``. ``timestamps`` (seconds) stand in for times that are no moments; None where there are none."""
    run = DecodedRun()
    given = enumerate(zip(values, timestamps, strict=True))
    parsed = [one for place, (value, time) in given if (one := _take(place, value, time, run)) is not None]
    for alike in by_layout((one for one in parsed if one.rows), _layout):
        _screen(alike, timestamps, run)
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


def excerpt(value: bytes, rows: Sequence[int]) -> bytes:
    """``rows`` (indices) of the packed record ``value``, as they came but for names that cannot be written, as a record
    of their own that names nobody else. Raises InvalidRecord where the structure of ``value`` is wrong, or its model
    cannot be written."""
    parsed = _parse(0, _read(value, Counter()), None, Counter())
    packed = parsed.packed
    _check_model(packed)
    return _encoder()(_packed(with_names(select(_batch([packed], [parsed.rows]), rows)), ()))


@cache
def _decoder() -> Callable[[bytes], PackedQueries]:
    import msgspec

    return msgspec.msgpack.Decoder(PackedQueries).decode


@cache
def _encoder() -> Callable[[dict[str, Any]], bytes]:
    import msgspec

    return msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class _Parsed:
    """One record whose columns have the lengths that its header calls for."""

    place: int
    packed: PackedQueries
    rows: int
    counts: list[Count]


def _take(place: int, value: bytes | None, timestamp: float | None, run: DecodedRun) -> _Parsed | None:
    """The record in ``value``; None where it is refused, which ``run`` then says."""
    try:
        return _parse(place, _read(value, run.repaired), timestamp, run.repaired)
    except InvalidRecord as error:
        run.refuse(place, error, *_whose(value))
        return None


def _read(value: bytes | None, repaired: Counter[str]) -> PackedQueries:
    import msgspec

    data = check_size(value)
    try:
        packed = _decoder()(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        packed = salvaged(packed_fields(data), repaired)
    if packed.schema != LOOSE_SCHEMA:
        check_schema(packed.schema, SCHEMA)
    return packed


def _whose(value: bytes | None) -> tuple[str, str, int]:
    """As ``DecodedRun.refuse`` has it: the model, the principal where there is but one, and how many queries."""
    try:
        fields = packed_fields(check_size(value))
    except InvalidRecord:
        return "", "", 1
    model, queries = model_in(fields), rows_in(fields)
    try:
        principals = principals_in(fields)
    except InvalidRecord:
        principals = []
    return model if names_one(model) else "", usable_principal(principals[0]) if len(principals) == 1 else "", queries


def _parse(place: int, packed: PackedQueries, timestamp: float | None, repaired: Counter[str]) -> _Parsed:
    rows = len(packed.event_ids)
    if not rows:
        _check_model(packed)
    _check_widths(packed, rows)
    _check_lengths(packed, rows, repaired)
    if packed.schema == LOOSE_SCHEMA:
        check_loose(packed, rows)
    _check_index(packed, rows)
    return _Parsed(place, packed, rows, _counts(packed, timestamp, repaired) if packed.counts else [])


def _check_model(packed: PackedQueries) -> None:
    if not (names_one(packed.model) and names_one(packed.model_version)):
        raise InvalidRecord(*NO_MODEL)


def _check_widths(packed: PackedQueries, rows: int) -> None:
    """Dimension and output width must be small enough to multiply; a record of counts alone may say 0."""
    for what, entries, least, limit in (
        ("dimension", packed.dimension, not text_width(packed), DIMENSIONS),
        ("output_width", packed.output_width, packed.output_kind != "none", OUTPUTS),
    ):
        if not (least if rows else 0) <= entries <= limit:
            raise InvalidRecord("dimension", f"{what} is {entries}; send 1 to {limit}")


def _check_lengths(packed: PackedQueries, rows: int, repaired: Counter[str]) -> None:
    """Drops optional columns of another length than ``rows`` call for; raises InvalidRecord for others."""
    for name, nbytes in ENTRY_BYTES.items():
        data: bytes | None = getattr(packed, name)
        if data is not None and len(data) != (expected := rows * nbytes * width(packed, name)):
            if name not in OPTIONAL:
                raise InvalidRecord("length", f"{name} has {len(data)} bytes; {rows} event ids call for {expected}")
            _leave_out(packed, name, repaired)
    if packed.missing is not None and len(packed.missing) != (rows * packed.dimension + 7) // 8:
        _leave_out(packed, "missing", repaired)
    for name in TEXT_COLUMNS:
        texts: list[str] | None = getattr(packed, name)
        if texts is not None and len(texts) != rows:
            _leave_out(packed, name, repaired)


def _leave_out(packed: PackedQueries, name: str, repaired: Counter[str]) -> None:
    setattr(packed, name, None)
    repaired["column"] += 1


def _check_index(packed: PackedQueries, rows: int) -> None:
    index = struct.unpack(f"<{rows}i", packed.principal_index)
    if rows and not (min(index) >= 0 and max(index) < len(packed.principals)):
        raise InvalidRecord("length", f"principal_index points outside the {len(packed.principals)} principals")


def _counts(packed: PackedQueries, timestamp: float | None, repaired: Counter[str]) -> list[Count]:
    """The counts that say something; a name, a time or a reason that is none is replaced."""
    counts = []
    for count in packed.counts:
        principal, reason, moment = usable_principal(count.principal), count.reason, count.occurred_at
        if not is_time(moment):
            moment = -1.0 if timestamp is None else timestamp
            repaired["time"] += 1
        if not (0 < count.queries < MOST_COUNTED and is_time(moment) and names_one(packed.model)):
            repaired["count"] += 1
            continue
        if principal != count.principal:
            repaired["principal"] += 1
        if not is_word(reason):
            reason = "other"
            repaired["reason"] += 1
        counts.append(Count(packed.model, principal, count.kind, count.queries, moment, reason))
    return counts


def _layout(parsed: _Parsed) -> tuple[object, ...]:
    """What records must agree in to be joined."""
    packed = parsed.packed
    absent = tuple(getattr(packed, name) is None for name in OPTIONAL)
    names = packed.feature_names and tuple(packed.feature_names)
    widths = packed.dimension, packed.output_width, names, packed.output_names is None
    return packed.model, packed.model_version, packed.output_kind, widths, absent


def _screen(alike: list[_Parsed], timestamps: Sequence[float | None], run: DecodedRun) -> None:
    """Screen the rows of ``alike``, records of one layout, as one batch, and say whose each of them is."""
    import numpy as np

    rows = [parsed.rows for parsed in alike]
    before = [0, *accumulate(rows[:-1])]
    records = np.array([parsed.place for parsed in alike]).repeat(rows)
    within = np.arange(len(records)) - np.array(before).repeat(rows)

    def moments() -> NDArray[np.float64]:
        return np.array(timestamps, dtype=np.float64).take(records)

    decoded = screen(_batch([parsed.packed for parsed in alike], rows), run.repaired, moments)
    if decoded.bad_rows:
        for bad in decoded.bad_rows:
            run.bad.append((int(records[bad.row]), replace(bad, row=int(within[bad.row]))))
        records, within = records[decoded.rows], within[decoded.rows]
    if decoded.batch is not None:
        run.parts.append((decoded.batch, records, within))


def _batch(alike: list[PackedQueries], rows: list[int]) -> QueryBatch:
    first = alike[0]
    columns: dict[str, Any] = {name: _column(alike, name) for name in DTYPES if getattr(first, name) is not None}
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
        **(loose_columns(alike, rows) if first.schema == LOOSE_SCHEMA else {}),
        **columns,
    )


def _column(alike: list[PackedQueries], name: str) -> NDArray[Any]:
    """A numeric column of all rows: a view of the bytes of a record that is alone."""
    import numpy as np

    column = np.frombuffer(b"".join([getattr(packed, name) for packed in alike]), dtype=DTYPES[name])
    rows = sum(len(packed.event_ids) for packed in alike)
    return column.reshape(rows, width(alike[0], name)) if name in MATRICES else column


def _missing(alike: list[PackedQueries], rows: list[int]) -> NDArray[np.bool_]:
    import numpy as np

    width = alike[0].dimension
    bits = [
        np.unpackbits(np.frombuffer(packed.missing or b"", dtype=np.uint8), count=count * width, bitorder="little")
        for packed, count in zip(alike, rows, strict=True)
    ]
    return np.concatenate(bits).reshape(sum(rows), width).view(np.bool_)


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
    for name, dtype in DTYPES.items():
        if (column := getattr(batch, name)) is not None:
            record[name] = column.astype(dtype, copy=False).tobytes()
    record.update({name: texts for name in TEXT_COLUMNS if (texts := getattr(batch, name)) is not None})
    if batch.missing is not None:
        record["missing"] = _bits(batch.missing)
    return record | loose_fields(batch)


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
