"""Many queries of one model version per record, in columns, as the SDK writes them.

The value is a msgpack map. Numeric columns are binary, little-endian and row by row. They are float32, except
``occurred_at`` (float64), ``principal_index`` (int32), ``leaf`` (int64) and ``missing`` (one bit per entry, lowest bit
first). The names and texts of loose queries are lists of texts: ``feature_names``, first of the
``dimension`` numbers, then of the texts; ``texts`` row by row; ``output_names`` row by row, or once for all rows. Every
length must match the number of event ids and the widths, so no memory is allocated for a false claim.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from detector.contracts.batches import join_principals, select
from detector.contracts.codecs.limits import (
    DIMENSIONS,
    MOST_COUNTED,
    OUTPUTS,
    PACKED_BYTES,
    check_schema,
    check_size,
    is_time,
    is_word,
)
from detector.contracts.codecs.loose import named, number_of, shown, text_of, whole_of
from detector.contracts.codecs.screening import NO_MODEL, TEXT_COLUMNS, by_layout, screen, with_names
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import names_one, usable_principal
from detector.contracts.queries import Count, CountKind, DecodedQueries, DecodedRun, OutputKind, QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA: Final = "weirguard.packed-queries/1"
LOOSE_SCHEMA: Final = "weirguard.loose-queries/1"
"""Schema of records with names, texts or partial outputs. Readers of the first version refuse such a record, and do
not read only some of its columns."""
PACKED_CONTENT_TYPE: Final = "application/vnd.weirguard.queries+msgpack"


@dataclass(slots=True)
class PackedCount:
    """Counts of queries without features, in the written form; the model is that of the record."""

    principal: str
    kind: CountKind
    queries: int
    occurred_at: float
    reason: str = ""


@dataclass(slots=True)
class PackedQueries:
    """The record in its written form."""

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
    feature_names: list[str] | None = None
    texts: list[str | None] | None = None
    output_names: list[str] | None = None
    counts: list[PackedCount] = field(default_factory=list)


DTYPES: Final = {
    "occurred_at": "<f8",
    "principal_index": "<i4",
    "features": "<f4",
    "outputs": "<f4",
    "hardness": "<f4",
    "leaf": "<i8",
    "specification": "<f4",
}
ENTRY_BYTES: Final = {name: int(dtype[2:]) for name, dtype in DTYPES.items()}
MATRICES: Final = ("features", "outputs", "specification")
BINARY_OPTIONAL: Final = ("missing", "hardness", "leaf", "specification")
LOOSE: Final = ("feature_names", "texts", "output_names")
OPTIONAL: Final = (*BINARY_OPTIONAL, *TEXT_COLUMNS)


def width(packed: PackedQueries, name: str) -> int:
    """Returns the entries per row of a numeric column."""
    if name == "features":
        return packed.dimension
    if name == "outputs":
        return packed.output_width
    return 2 if name == "specification" else 1


def loose_fields(batch: QueryBatch) -> dict[str, Any]:
    """Returns the additional columns of ``batch``; empty for a plain batch with outputs."""
    if not batch.is_loose and batch.output_kind != "none":
        return {}
    fields: dict[str, Any] = {"schema": LOOSE_SCHEMA}
    if batch.feature_names is not None:
        fields["feature_names"] = list(batch.feature_names)
    if batch.texts is not None:
        fields["texts"] = batch.texts.ravel().tolist()
    if batch.output_names is not None:
        names = batch.output_names.tolist()
        alike = all(row == names[0] for row in names[1:])
        fields["output_names"] = names[0] if alike else [name for row in names for name in row]
    return fields


def text_width(packed: PackedQueries) -> int:
    """Returns the number of text features per row."""
    return 0 if packed.feature_names is None else len(packed.feature_names) - packed.dimension


def check_loose(packed: PackedQueries, rows: int) -> None:
    """Raises InvalidRecord unless the numbers of names and texts match ``rows`` and the widths."""
    names = packed.feature_names
    if names is not None and not (packed.dimension <= len(names) <= DIMENSIONS and len(set(names)) == len(names)):
        raise InvalidRecord("length", f"{len(names)} feature_names for {packed.dimension} numbers; name each, once")
    texts = len(packed.texts or ())
    if texts != rows * text_width(packed):
        raise InvalidRecord("length", f"{texts} texts for {rows} event ids with {text_width(packed)} names of texts")
    named, width = packed.output_names, packed.output_width
    if named is not None and len(named) not in (width, rows * width):
        raise InvalidRecord("length", f"{len(named)} output_names; {rows} event ids call for {width} or {rows * width}")


def loose_columns(alike: Sequence[PackedQueries], rows: Sequence[int]) -> dict[str, Any]:
    """Returns ``feature_names``, ``texts`` and ``output_names`` of the records ``alike``, which share one layout."""
    first, columns = alike[0], dict[str, Any]()
    if first.feature_names is not None:
        columns["feature_names"] = tuple(first.feature_names)
    if first.texts:
        columns["texts"] = _table([text for packed in alike for text in packed.texts or ()], text_width(first))
    if first.output_names is not None:
        columns["output_names"] = _table(
            [
                name
                for packed, count in zip(alike, rows, strict=True)
                for name in _names_of_all(packed.output_names or [], count * packed.output_width)
            ],
            first.output_width,
        )
    return columns


def _names_of_all(names: list[str], cells: int) -> list[str]:
    return names if len(names) == cells else names * (cells // len(names))


def _table(cells: list[Any], width: int) -> NDArray[np.object_]:
    import numpy as np

    table = np.empty(len(cells), dtype=object)
    table[:] = cells
    return table.reshape(-1, width)


_REQUIRED = ("occurred_at", "principal_index", "features", "outputs")

Fields = dict[str, Any]
"""Raw columns by name, not yet decoded."""


def packed_fields(value: bytes) -> Fields:
    """Returns the columns in ``value``. Raises InvalidRecord if it is not a map of names to values."""
    import msgspec

    try:
        return msgspec.msgpack.decode(value, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError as error:
        raise InvalidRecord("structure", f"not a map of columns: {str(error)[:200]}") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidRecord("syntax", f"not msgpack: {str(error)[:200]}") from None


def salvaged(fields: Fields, repaired: Counter[str]) -> PackedQueries:
    """Returns the record in ``fields``. Raises InvalidRecord if a mandatory column is absent or of a wrong type; drops
    bad optional columns."""
    schema = text_of(_value(fields, "schema"))
    if schema != LOOSE_SCHEMA:
        check_schema(schema, SCHEMA)
    kind = _value(fields, "output_kind")
    if kind not in get_args(OutputKind):
        raise InvalidRecord("structure", f"output_kind is {shown(kind)}; use {', '.join(get_args(OutputKind))}")
    columns: dict[str, Any] = {name: _bytes(fields, name) for name in _REQUIRED}
    columns |= {name: _optional(fields, name, repaired) for name in BINARY_OPTIONAL}
    columns |= {name: _attributes(fields, name, repaired) for name in TEXT_COLUMNS}
    columns |= {name: _names(fields, name) for name in LOOSE} if schema == LOOSE_SCHEMA else {}
    return PackedQueries(
        schema=schema or SCHEMA,
        model=named(_value(fields, "model"), "model"),
        model_version=named(_value(fields, "model_version"), "model_version"),
        output_kind=cast("OutputKind", kind),
        dimension=_whole(fields, "dimension"),
        output_width=_whole(fields, "output_width"),
        event_ids=[text or "" for text in _text_items(fields, "event_ids")],
        principals=principals_in(fields),
        counts=_salvaged_counts(fields, repaired),
        **columns,
    )


def principals_in(fields: Fields) -> list[str]:
    """Returns the principals in ``fields``. Raises InvalidRecord if one is not a text."""
    return [named(text, "a principal") for text in _text_items(fields, "principals")]


def rows_in(fields: Fields) -> int:
    """Returns the number of event ids in ``fields``, or 1 if it is unknown."""
    try:
        return len(_text_items(fields, "event_ids"))
    except InvalidRecord:
        return 1


def model_in(fields: Fields) -> str:
    """Returns the model in ``fields``, or an empty text."""
    return text_of(_value(fields, "model")) or ""


def _value(fields: Fields, name: str) -> object:
    return _decoded(fields[name]) if name in fields else None


def _decoded(raw: Any) -> object:
    """Returns the value of ``raw``, or None if it cannot be decoded. Text that is not UTF-8 gets lone surrogates."""
    import msgspec

    data = bytes(raw)
    try:
        return cast("object", msgspec.msgpack.decode(data))
    except UnicodeDecodeError:
        return _loose_text(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _loose_text(data: bytes) -> str | None:
    """Returns the text in ``data``, one msgpack value, or None if it is not a text."""
    first = data[0]
    header = 1 if 0xA0 <= first <= 0xBF else {0xD9: 2, 0xDA: 3, 0xDB: 5}.get(first)
    return None if header is None else data[header:].decode("utf-8", "surrogateescape")


def _items(fields: Fields, name: str) -> list[Any] | None:
    """Returns the raw entries of the list ``name``, or None if there is no such list."""
    import msgspec

    try:
        return msgspec.msgpack.decode(fields[name], type=list[msgspec.Raw])
    except (KeyError, msgspec.DecodeError, ValueError, RecursionError):
        return None


def _text_items(fields: Fields, name: str) -> list[str | None]:
    items = _items(fields, name)
    if items is None:
        raise InvalidRecord("structure", f"{name} is {shown(_value(fields, name))}; send a list of texts")
    return [text_of(_decoded(item)) for item in items]


def _names(fields: Fields, name: str) -> list[Any] | None:
    """Returns a list of names or texts, or None if it is absent. Entries that are not texts become missing."""
    absent = _value(fields, name) is None and _items(fields, name) is None
    texts = [] if absent else _text_items(fields, name)
    return None if absent else texts if name == "texts" else [text or "" for text in texts]


def _attributes(fields: Fields, name: str, repaired: Counter[str]) -> list[str] | None:
    if _value(fields, name) is None and _items(fields, name) is None:
        return None
    items = _items(fields, name)
    if items is None:
        repaired["column"] += 1
        return None
    texts = [text_of(_decoded(item)) for item in items]
    if None in texts:
        repaired["attribute"] += texts.count(None)
    return [text or "" for text in texts]


def _bytes(fields: Fields, name: str) -> bytes:
    value = _value(fields, name)
    if not isinstance(value, bytes):
        raise InvalidRecord("structure", f"{name} is {shown(value)}; send the little-endian bytes of the column")
    return value


def _optional(fields: Fields, name: str, repaired: Counter[str]) -> bytes | None:
    value = _value(fields, name)
    if value is None or isinstance(value, bytes):
        return value
    repaired["column"] += 1
    return None


def _whole(fields: Fields, name: str) -> int:
    whole = whole_of(_value(fields, name))
    if whole is None:
        raise InvalidRecord("structure", f"{name} is {shown(_value(fields, name))}; send a whole number")
    return whole


def _salvaged_counts(fields: Fields, repaired: Counter[str]) -> list[PackedCount]:
    items = _items(fields, "counts")
    if items is None:
        if _value(fields, "counts") is not None:
            repaired["count"] += 1
        return []
    counts = [_count(item) for item in items]
    if None in counts:
        repaired["count"] += counts.count(None)
    return [count for count in counts if count is not None]


def _count(item: Any) -> PackedCount | None:
    """Returns one count, or None if a mandatory field is absent."""
    try:
        fields = packed_fields(bytes(item))
    except InvalidRecord:
        return None
    kind, principal = _value(fields, "kind"), text_of(_value(fields, "principal"))
    queries, occurred_at = whole_of(_value(fields, "queries")), number_of(_value(fields, "occurred_at"))
    if kind not in get_args(CountKind) or principal is None or queries is None:
        return None
    reason = text_of(_value(fields, "reason")) or ""
    when = float("nan") if occurred_at is None else occurred_at
    return PackedCount(principal, cast("CountKind", kind), queries, when, reason)


def decode_packed(value: bytes | None, *, timestamp: float | None = None) -> DecodedQueries:
    """Returns the queries and counts in ``value``; ``timestamp`` as in ``decode_packed_run``.

    Raises InvalidRecord for a structural error. A row that breaks a rule goes to ``bad_rows``; the others are kept. A
    record without rows has only counts.
    """
    import numpy as np

    run = decode_packed_run([value], [timestamp])
    bad = [fault for _, fault in run.bad]
    if bad and bad[0].row < 0:
        raise InvalidRecord(bad[0].reason, bad[0].detail)
    batch, _, rows = run.parts[0] if run.parts else (None, None, np.zeros(0, dtype=np.int64))
    return DecodedQueries(batch, rows, [count for _, count in run.counts], bad, run.repaired)


def decode_packed_run(values: Sequence[bytes | None], timestamps: Sequence[float | None]) -> DecodedRun:
    """Returns the queries and counts in the records ``values``. Does not raise for a bad one; its reason is one of
    ``limits.REASONS``. ``timestamps`` (seconds) replace invalid times; None if there are none."""
    run = DecodedRun()
    given = enumerate(zip(values, timestamps, strict=True))
    parsed = [one for place, (value, time) in given if (one := _take(place, value, time, run)) is not None]
    for alike in by_layout((one for one in parsed if one.rows), _layout):
        _screen(alike, timestamps, run)
    run.counts.extend((one.place, count) for one in parsed for count in one.counts)
    return run


def encode_packed(batch: QueryBatch, counts: Sequence[Count] = (), most: int = PACKED_BYTES) -> bytes:
    """Returns ``batch`` and ``counts`` of the same model as one record value, for principals of one partition.

    Raises InvalidRecord ``too-large`` above ``most`` bytes; cut the batch in that case.
    """
    value = _encoder()(_packed(batch, counts))
    if len(value) > most:
        raise InvalidRecord("too-large", f"{len(batch)} queries pack into {len(value)} bytes, over {most}")
    return value


def excerpt(value: bytes, rows: Sequence[int]) -> bytes:
    """Returns ``rows`` (indices) of the packed record ``value`` as a separate record, which names no other principal.
    The rows are unchanged except for names that cannot be written. Raises InvalidRecord if the structure of ``value``
    is wrong, or if its model cannot be written."""
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
    """One record whose columns have the lengths that its header requires."""

    place: int
    packed: PackedQueries
    rows: int
    counts: list[Count]


def _take(place: int, value: bytes | None, timestamp: float | None, run: DecodedRun) -> _Parsed | None:
    """Returns the record in ``value``, or None if it is refused, and adds the refusal to ``run``."""
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
    """Returns the arguments of ``DecodedRun.refuse``: the model, the principal if there is only one, and the number of
    queries."""
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
    """Checks that dimension and output width are within the limits; a record of counts may have 0."""
    for what, entries, least, limit in (
        ("dimension", packed.dimension, not text_width(packed), DIMENSIONS),
        ("output_width", packed.output_width, packed.output_kind != "none", OUTPUTS),
    ):
        if not (least if rows else 0) <= entries <= limit:
            raise InvalidRecord("dimension", f"{what} is {entries}; send 1 to {limit}")


def _check_lengths(packed: PackedQueries, rows: int, repaired: Counter[str]) -> None:
    """Drops optional columns whose length does not match ``rows``; raises InvalidRecord for others."""
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
    """Returns the usable counts; replaces invalid names, times and reasons."""
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
    """Returns the properties that records must share to be joined."""
    packed = parsed.packed
    absent = tuple(getattr(packed, name) is None for name in OPTIONAL)
    names = packed.feature_names and tuple(packed.feature_names)
    widths = packed.dimension, packed.output_width, names, packed.output_names is None
    return packed.model, packed.model_version, packed.output_kind, widths, absent


def _screen(alike: list[_Parsed], timestamps: Sequence[float | None], run: DecodedRun) -> None:
    """Screens the rows of ``alike``, records of one layout, as one batch, and assigns each row to its record."""
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
    """Returns a numeric column of all rows; for a single record, a view of its bytes."""
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
