"""Many queries of one model version a record, in columns: what the SDK writes.
``schemas/weirguard.packed-queries.v1.schema.json``.

The value is a msgpack map. Numeric columns are binary, little-endian and row by row: float32, but for
``occurred_at`` (float64), ``principal_index`` (int32), ``leaf`` (int64) and ``missing`` (one bit an
entry, lowest bit first). Every such length must follow from the number of event ids and the two widths,
so nothing is ever allocated on a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from detector.contracts.codecs.limits import DIMENSIONS, OUTPUTS, PACKED_BYTES, is_time, names_one
from detector.contracts.codecs.reading import Envelope, check_schema, check_size, read
from detector.contracts.codecs.screening import TEXT_COLUMNS, screen
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import Count, CountKind, DecodedQueries, OutputKind, QueryBatch

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


def decode_packed(value: bytes) -> DecodedQueries:
    """The queries and counts in ``value``.

    Raises InvalidRecord for a structural error; a row that breaks a rule is among ``bad_rows`` and the
    others survive. A record without rows carries counts alone.
    """
    packed = read(check_size(value), _decoder(), _envelope(), SCHEMA)
    check_schema(packed.schema, SCHEMA)
    counts = [_count(packed.model, count) for count in packed.counts]
    return screen(_batch(packed), counts)


def encode_packed(batch: QueryBatch, counts: Sequence[Count] = ()) -> bytes:
    """``batch`` and ``counts`` of the same model as one record value, for principals of one partition.

    Raises InvalidRecord ``too-large`` over PACKED_BYTES: cut the batch.
    """
    value = _encoder()(_packed(batch, counts))
    if len(value) > PACKED_BYTES:
        raise InvalidRecord("too-large", f"{len(batch)} queries pack into {len(value)} bytes, over {PACKED_BYTES}")
    return value


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
    return Count(model, count.principal, count.kind, count.queries, count.occurred_at)


def _batch(packed: PackedQueries) -> QueryBatch:
    rows = len(packed.event_ids)
    features, outputs = _widths(packed, rows)
    return QueryBatch(
        model=packed.model,
        model_version=packed.model_version,
        output_kind=packed.output_kind,
        event_ids=packed.event_ids,
        occurred_at=_column(packed.occurred_at, "<f8", "occurred_at", rows),
        principals=packed.principals,
        principal_index=_principal_index(packed, rows),
        features=_column(packed.features, "<f4", "features", rows, features),
        outputs=_column(packed.outputs, "<f4", "outputs", rows, outputs),
        missing=_missing(packed.missing, rows, features),
        hardness=_optional(packed.hardness, "<f4", "hardness", rows),
        leaf=_optional(packed.leaf, "<i8", "leaf", rows),
        specification=_optional(packed.specification, "<f4", "specification", rows, 2),
        served_mode=_texts(packed.served_mode, "served_mode", rows),
        network_prefix=_texts(packed.network_prefix, "network_prefix", rows),
        organisation=_texts(packed.organisation, "organisation", rows),
        user_agent_hash=_texts(packed.user_agent_hash, "user_agent_hash", rows),
    )


def _widths(packed: PackedQueries, rows: int) -> tuple[int, int]:
    """Dimension and output width, small enough to multiply; a record of counts alone may say 0."""
    for what, width, limit in (
        ("dimension", packed.dimension, DIMENSIONS),
        ("output_width", packed.output_width, OUTPUTS),
    ):
        if not (1 if rows else 0) <= width <= limit:
            raise InvalidRecord("dimension", f"{what} is {width}; send 1 to {limit}")
    return packed.dimension, packed.output_width


def _column(data: bytes, dtype: str, name: str, rows: int, width: int | None = None) -> NDArray[Any]:
    import numpy as np

    expected = rows * (1 if width is None else width) * int(dtype[2:])
    if len(data) != expected:
        raise InvalidRecord("length", f"{name} has {len(data)} bytes; {rows} event ids call for {expected}")
    column = np.frombuffer(data, dtype=dtype)
    return column if width is None else column.reshape(rows, width)


def _optional(data: bytes | None, dtype: str, name: str, rows: int, width: int | None = None) -> NDArray[Any] | None:
    return None if data is None else _column(data, dtype, name, rows, width)


def _principal_index(packed: PackedQueries, rows: int) -> NDArray[np.int32]:
    index = _column(packed.principal_index, "<i4", "principal_index", rows)
    if rows and not (index.min() >= 0 and index.max() < len(packed.principals)):
        raise InvalidRecord("length", f"principal_index points outside the {len(packed.principals)} principals")
    return index


def _missing(data: bytes | None, rows: int, width: int) -> NDArray[np.bool_] | None:
    import numpy as np

    if data is None:
        return None
    expected = (rows * width + 7) // 8
    if len(data) != expected:
        raise InvalidRecord("length", f"missing has {len(data)} bytes; {rows} rows of {width} bits call for {expected}")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=rows * width, bitorder="little")
    return bits.reshape(rows, width).astype(np.bool_)


def _texts(texts: list[str] | None, name: str, rows: int) -> list[str] | None:
    if texts is not None and len(texts) != rows:
        raise InvalidRecord("length", f"{name} has {len(texts)} entries for {rows} event ids")
    return texts


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
    }
