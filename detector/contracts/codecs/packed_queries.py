"""Many queries of one model version per record, in columns, as the SDK writes them.
``schemas/weirguard.packed-queries.v1.schema.json``.

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
from dataclasses import dataclass, field
from functools import cache
from math import nan
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from detector.contracts.batches import join_principals, select
from detector.contracts.codecs.limits import (
    DIMENSIONS,
    MOST_COUNTED,
    OUTPUTS,
    PACKED_BYTES,
    check_schema,
    is_time,
    is_word,
)
from detector.contracts.codecs.loose import (
    Fields,
    msgpack_fields,
    number_of,
    output_kind_of,
    required_text,
    shown,
    text_of,
    text_table,
    whole_of,
)
from detector.contracts.codecs.runs import QueryFormat
from detector.contracts.codecs.screening import NO_MODEL, TEXT_COLUMNS, with_usable_names
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import is_name, usable_principal
from detector.contracts.queries import Count, CountKind, OutputKind, QueryBatch

if TYPE_CHECKING:
    import msgspec
    import numpy as np
    from numpy.typing import NDArray
else:
    from detector.contracts.lazy import msgspec, np

SCHEMA: Final = "weirguard.packed-queries/1"
LOOSE_SCHEMA: Final = "weirguard.loose-queries/1"
"""Schema of records with names, texts or partial outputs. Readers of the first version refuse such a record, and do
not read only some of its columns."""
PACKED_CONTENT_TYPE: Final = "application/vnd.weirguard.queries+msgpack"

_DTYPES: Final = {
    "occurred_at": "<f8",
    "principal_index": "<i4",
    "features": "<f4",
    "outputs": "<f4",
    "hardness": "<f4",
    "leaf": "<i8",
    "specification": "<f4",
}
_REQUIRED: Final = ("occurred_at", "principal_index", "features", "outputs")
_MATRICES: Final = ("features", "outputs", "specification")
_BINARY_OPTIONAL: Final = ("missing", "hardness", "leaf", "specification")
_OPTIONAL: Final = (*_BINARY_OPTIONAL, *TEXT_COLUMNS)
_optional_values = attrgetter(*_OPTIONAL)


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

    @property
    def text_width(self) -> int:
        """The number of text features per row."""
        return 0 if self.feature_names is None else len(self.feature_names) - self.dimension

    def width(self, name: str) -> int:
        """Returns the entries per row of a numeric column."""
        if name == "features":
            return self.dimension
        if name == "outputs":
            return self.output_width
        return 2 if name == "specification" else 1


@dataclass(slots=True)
class _ParsedQueries:
    """One record whose columns have the lengths that its header requires."""

    packed: PackedQueries
    rows: int
    counts: list[Count]


def encode_packed(batch: QueryBatch, counts: Sequence[Count] = (), most: int = PACKED_BYTES) -> bytes:
    """Returns ``batch`` and ``counts`` of the same model as one record value, for principals of one partition.

    Raises InvalidRecord ``too-large`` above ``most`` bytes; cut the batch in that case.
    """
    value = msgspec.msgpack.encode(_packed(batch, counts))
    if len(value) > most:
        raise InvalidRecord("too-large", f"{len(batch)} queries pack into {len(value)} bytes, over {most}")
    return value


def excerpt(value: bytes, rows: Sequence[int]) -> bytes:
    """Returns ``rows`` (indices) of the packed record ``value`` as a separate record, which names no other principal.
    The rows are unchanged except for names that cannot be written. Raises InvalidRecord if the structure of ``value``
    is wrong, or if its model cannot be written."""
    parsed = _parse(_FORMAT.read(value, Counter()), None, Counter())
    _check_model(parsed.packed)
    return msgspec.msgpack.encode(_packed(with_usable_names(select(_batch([parsed]), rows)), ()))


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
        "counts": [_packed_count(batch.model, count) for count in counts],
    }
    for name, dtype in _DTYPES.items():
        if (column := getattr(batch, name)) is not None:
            record[name] = column.astype(dtype, copy=False).tobytes()
    record.update({name: texts for name in TEXT_COLUMNS if (texts := getattr(batch, name)) is not None})
    if batch.missing is not None:
        record["missing"] = np.packbits(batch.missing.reshape(-1), bitorder="little").tobytes()
    return record | _written_texts(batch)


def _written_texts(batch: QueryBatch) -> dict[str, Any]:
    """Returns the names and texts of ``batch``, and the schema that a record with them has."""
    if not batch.is_loose and batch.output_kind != "none":
        return {}
    record: dict[str, Any] = {"schema": LOOSE_SCHEMA}
    if batch.feature_names is not None:
        record["feature_names"] = list(batch.feature_names)
    if batch.texts is not None:
        record["texts"] = batch.texts.ravel().tolist()
    if batch.output_names is not None:
        names = batch.output_names.tolist()
        alike = all(row == names[0] for row in names[1:])
        record["output_names"] = names[0] if alike else [name for row in names for name in row]
    return record


def _packed_count(model: str, count: Count) -> PackedCount:
    if count.model != model:
        raise InvalidRecord("counts", "a packed record counts queries of its own model alone; send another record")
    return PackedCount(count.principal, count.kind, count.queries, count.occurred_at, count.reason)


@cache
def _decoder() -> Callable[[bytes], PackedQueries]:
    return msgspec.msgpack.Decoder(PackedQueries).decode


def _loose(fields: Fields, repaired: Counter[str]) -> PackedQueries:
    """Returns the record in ``fields``. Raises InvalidRecord if a mandatory column is absent or of a wrong type; drops
    bad optional columns."""
    schema = text_of(fields.get("schema"))
    if schema != LOOSE_SCHEMA:
        check_schema(schema, SCHEMA)
    kind = output_kind_of(fields.get("output_kind"))
    columns: dict[str, Any] = {name: _bytes(fields, name) for name in _REQUIRED}
    columns |= {name: _optional(name, fields.get(name), repaired) for name in _OPTIONAL}
    for name in ("feature_names", "texts", "output_names") if schema == LOOSE_SCHEMA else ():
        texts = None if fields.get(name) is None else _texts(fields, name)
        columns[name] = texts if texts is None or name == "texts" else [text or "" for text in texts]
    return PackedQueries(
        schema=schema or SCHEMA,
        model=required_text(fields.get("model"), "model"),
        model_version=required_text(fields.get("model_version"), "model_version"),
        output_kind=kind,
        dimension=_whole_number(fields, "dimension"),
        output_width=_whole_number(fields, "output_width"),
        event_ids=[text or "" for text in _texts(fields, "event_ids")],
        principals=[required_text(text, "a principal") for text in _texts(fields, "principals")],
        counts=_loose_counts(fields.get("counts"), repaired),
        **columns,
    )


def _owners(fields: Fields) -> tuple[list[str | None], int]:
    principals, event_ids = fields.get("principals"), fields.get("event_ids")
    texts = list(map(text_of, principals)) if isinstance(principals, list) else []
    return texts, len(event_ids) if isinstance(event_ids, list) else 1


def _bytes(fields: Fields, name: str) -> bytes:
    value = fields.get(name)
    if not isinstance(value, bytes):
        raise InvalidRecord("structure", f"{name} is {shown(value)}; send the little-endian bytes of the column")
    return value


def _texts(fields: Fields, name: str) -> list[str | None]:
    value = fields.get(name)
    if not isinstance(value, list):
        raise InvalidRecord("structure", f"{name} is {shown(value)}; send a list of texts")
    return list(map(text_of, value))


def _whole_number(fields: Fields, name: str) -> int:
    number = whole_of(fields.get(name))
    if number is None:
        raise InvalidRecord("structure", f"{name} is {shown(fields.get(name))}; send a whole number")
    return number


def _optional(name: str, value: object, repaired: Counter[str]) -> Any:
    """Returns the optional column ``name``, or None if ``value`` is of another type."""
    if name in TEXT_COLUMNS and isinstance(value, list):
        texts = list(map(text_of, value))
        if None in texts:
            repaired["attribute"] += texts.count(None)
        return [text or "" for text in texts]
    if value is None or (name in _BINARY_OPTIONAL and isinstance(value, bytes)):
        return value
    repaired["column"] += 1
    return None


def _loose_counts(value: object, repaired: Counter[str]) -> list[PackedCount]:
    if not isinstance(value, list):
        if value is not None:
            repaired["count"] += 1
        return []
    counts = [count for item in value if (count := _loose_count(item)) is not None]
    if len(counts) < len(value):
        repaired["count"] += len(value) - len(counts)
    return counts


def _loose_count(fields: Any) -> PackedCount | None:
    """Returns one count, or None if a mandatory field is absent."""
    if not isinstance(fields, dict):
        return None
    kind, principal = fields.get("kind"), text_of(fields.get("principal"))
    queries, occurred_at = whole_of(fields.get("queries")), number_of(fields.get("occurred_at"))
    if kind not in get_args(CountKind) or principal is None or queries is None:
        return None
    time = nan if occurred_at is None else occurred_at
    return PackedCount(principal, cast("CountKind", kind), queries, time, text_of(fields.get("reason")) or "")


def _parse(packed: PackedQueries, timestamp: float | None, repaired: Counter[str]) -> _ParsedQueries:
    if packed.schema != LOOSE_SCHEMA:
        check_schema(packed.schema, SCHEMA)
    rows = len(packed.event_ids)
    if not rows:
        _check_model(packed)
    _check_widths(packed, rows)
    _check_lengths(packed, rows, repaired)
    if packed.schema == LOOSE_SCHEMA:
        _check_texts(packed, rows)
    index = struct.unpack(f"<{rows}i", packed.principal_index)
    if rows and not (min(index) >= 0 and max(index) < len(packed.principals)):
        raise InvalidRecord("length", f"principal_index points outside the {len(packed.principals)} principals")
    return _ParsedQueries(packed, rows, _counts(packed, timestamp, repaired) if packed.counts else [])


def _check_model(packed: PackedQueries) -> None:
    if not (is_name(packed.model) and is_name(packed.model_version)):
        raise InvalidRecord(*NO_MODEL)


def _check_widths(packed: PackedQueries, rows: int) -> None:
    """Checks that dimension and output width are within the limits; a record of counts may have 0."""
    for what, entries, least, limit in (
        ("dimension", packed.dimension, not packed.text_width, DIMENSIONS),
        ("output_width", packed.output_width, packed.output_kind != "none", OUTPUTS),
    ):
        if not (least if rows else 0) <= entries <= limit:
            raise InvalidRecord("dimension", f"{what} is {entries}; send 1 to {limit}")


def _check_lengths(packed: PackedQueries, rows: int, repaired: Counter[str]) -> None:
    """Drops optional columns whose length does not match ``rows``; raises InvalidRecord for others."""
    for name, dtype in _DTYPES.items():
        data: bytes | None = getattr(packed, name)
        if data is not None and len(data) != (expected := rows * int(dtype[2:]) * packed.width(name)):
            if name not in _OPTIONAL:
                raise InvalidRecord("length", f"{name} has {len(data)} bytes; {rows} event ids call for {expected}")
            _drop_column(packed, name, repaired)
    if packed.missing is not None and len(packed.missing) != (rows * packed.dimension + 7) // 8:
        _drop_column(packed, "missing", repaired)
    for name in TEXT_COLUMNS:
        texts: list[str] | None = getattr(packed, name)
        if texts is not None and len(texts) != rows:
            _drop_column(packed, name, repaired)


def _drop_column(packed: PackedQueries, name: str, repaired: Counter[str]) -> None:
    setattr(packed, name, None)
    repaired["column"] += 1


def _check_texts(packed: PackedQueries, rows: int) -> None:
    """Raises InvalidRecord unless the numbers of names and texts match ``rows`` and the widths."""
    names = packed.feature_names
    if names is not None and not (packed.dimension <= len(names) <= DIMENSIONS and len(set(names)) == len(names)):
        raise InvalidRecord("length", f"{len(names)} feature_names for {packed.dimension} numbers; name each, once")
    texts = len(packed.texts or ())
    if texts != rows * packed.text_width:
        raise InvalidRecord("length", f"{texts} texts for {rows} event ids with {packed.text_width} names of texts")
    named, width = packed.output_names, packed.output_width
    if named is not None and len(named) not in (width, rows * width):
        raise InvalidRecord("length", f"{len(named)} output_names; {rows} event ids call for {width} or {rows * width}")


def _counts(packed: PackedQueries, timestamp: float | None, repaired: Counter[str]) -> list[Count]:
    """Returns the usable counts; replaces invalid names, times and reasons."""
    counts = []
    for count in packed.counts:
        principal, reason, time = usable_principal(count.principal), count.reason, count.occurred_at
        if not is_time(time):
            time = -1.0 if timestamp is None else timestamp
            repaired["time"] += 1
        if not (0 < count.queries < MOST_COUNTED and is_time(time) and is_name(packed.model)):
            repaired["count"] += 1
            continue
        if principal != count.principal:
            repaired["principal"] += 1
        if not is_word(reason):
            reason = "other"
            repaired["reason"] += 1
        counts.append(Count(packed.model, principal, count.kind, count.queries, time, reason))
    return counts


def _layout(parsed: _ParsedQueries) -> tuple[object, ...]:
    packed = parsed.packed
    absent = tuple([value is None for value in _optional_values(packed)])
    names = packed.feature_names and tuple(packed.feature_names)
    widths = packed.dimension, packed.output_width, names, packed.output_names is None
    return packed.model, packed.model_version, packed.output_kind, widths, absent


def _batch(alike: Sequence[_ParsedQueries]) -> QueryBatch:
    pieces, rows = [parsed.packed for parsed in alike], [parsed.rows for parsed in alike]
    first = pieces[0]
    columns: dict[str, Any] = {}
    for name, dtype in _DTYPES.items():
        if getattr(first, name) is not None:
            column = np.frombuffer(b"".join([getattr(packed, name) for packed in pieces]), dtype=dtype)
            columns[name] = column.reshape(sum(rows), first.width(name)) if name in _MATRICES else column
    for name in TEXT_COLUMNS:
        if getattr(first, name) is not None:
            columns[name] = [text for packed in pieces for text in getattr(packed, name)]
    if first.missing is not None:
        columns["missing"] = np.concatenate([_mask(parsed) for parsed in alike])
    names = [packed.principals for packed in pieces]
    principals, columns["principal_index"] = join_principals(names, rows, columns["principal_index"])
    if first.schema == LOOSE_SCHEMA:
        columns |= _loose_columns(alike)
    return QueryBatch(
        model=first.model,
        model_version=first.model_version,
        output_kind=first.output_kind,
        event_ids=[event_id for packed in pieces for event_id in packed.event_ids],
        principals=principals,
        **columns,
    )


def _mask(parsed: _ParsedQueries) -> NDArray[np.bool_]:
    width = parsed.packed.dimension
    packed = np.frombuffer(parsed.packed.missing or b"", dtype=np.uint8)
    bits = np.unpackbits(packed, count=parsed.rows * width, bitorder="little")
    return bits.reshape(parsed.rows, width).view(np.bool_)


def _loose_columns(alike: Sequence[_ParsedQueries]) -> dict[str, Any]:
    """Returns ``feature_names``, ``texts`` and ``output_names`` of the records ``alike``, which share one layout."""
    first, columns = alike[0].packed, dict[str, Any]()
    if first.feature_names is not None:
        columns["feature_names"] = tuple(first.feature_names)
    if first.texts:
        texts = [text for parsed in alike for text in parsed.packed.texts or ()]
        columns["texts"] = text_table(texts, first.text_width)
    if first.output_names is not None:
        names: list[str | None] = []
        for parsed in alike:
            listed, cells = parsed.packed.output_names or [], parsed.rows * first.output_width
            names += listed if len(listed) == cells else listed * parsed.rows
        columns["output_names"] = text_table(names, first.output_width)
    return columns


_FORMAT = QueryFormat(
    decoder=_decoder,
    fields=msgpack_fields,
    loose=_loose,
    parse=_parse,
    owners=_owners,
    layout=_layout,
    batch=_batch,
    by_row=True,
)
decode_packed_run = _FORMAT.decode_run
"""Returns the queries and counts in packed records; see ``QueryFormat.decode_run``."""
decode_packed = _FORMAT.decode
"""Returns the queries and counts in one packed record; see ``QueryFormat.decode``."""
