"""One query a record, as JSON: what any producer can write. ``schemas/weirguard.query.v1.schema.json``.

A vector is base64 of little-endian float32, or a plain list of numbers, which costs several times more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from detector.contracts.codecs.limits import DIMENSIONS
from detector.contracts.codecs.reading import Envelope, check_schema, check_size, read
from detector.contracts.codecs.screening import TEXT_COLUMNS, screen
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import OutputKind, QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA: Final = "weirguard.query/1"
JSON_CONTENT_TYPE: Final = "application/json"


@dataclass(slots=True)
class JsonQuery:
    """The record as it is written."""

    event_id: str
    principal: str
    model: str
    model_version: str
    features: str | list[float]
    outputs: str | list[float]
    output_kind: OutputKind = "probabilities"
    occurred_at: str | float | None = None
    missing: list[bool] | None = None
    hardness: float | None = None
    leaf: int | None = None
    specification: tuple[float, float] | None = None
    served_mode: str | None = None
    network_prefix: str | None = None
    organisation: str | None = None
    user_agent_hash: str | None = None
    schema: str = SCHEMA


def decode_json_query(value: bytes, *, timestamp: float | None) -> QueryBatch:
    """The query in ``value`` as a batch of one row.

    ``timestamp`` (seconds) stands in for an absent ``occurred_at``; None makes that field mandatory.
    Raises InvalidRecord, whose reason is one of ``limits.REASONS``.
    """
    query = read(check_size(value), _decoder(), _envelope(), SCHEMA)
    check_schema(query.schema, SCHEMA)
    decoded = screen(_batch(query, _seconds(query.occurred_at, timestamp)))
    if decoded.batch is None:
        fault = decoded.bad_rows[0]
        raise InvalidRecord(fault.reason, fault.detail)
    return decoded.batch


def encode_json_query(batch: QueryBatch, row: int = 0) -> bytes:
    """One row of ``batch`` as a record value, its vectors in base64."""
    optional: dict[str, Any] = {name: _at(getattr(batch, name), row) for name in ("hardness", "leaf", *TEXT_COLUMNS)}
    return _encoder()(
        JsonQuery(
            event_id=batch.event_ids[row],
            principal=batch.principals[int(batch.principal_index[row])],
            model=batch.model,
            model_version=batch.model_version,
            features=_base64(batch.features[row]),
            outputs=_base64(batch.outputs[row]),
            output_kind=batch.output_kind,
            occurred_at=float(batch.occurred_at[row]),
            missing=None if batch.missing is None else batch.missing[row].tolist(),
            specification=None if batch.specification is None else tuple(batch.specification[row].tolist()),
            **optional,
        )
    )


def _at(column: Any, row: int) -> Any:
    if column is None or isinstance(column, list):
        return column and column[row]
    return column[row].item()


def _base64(vector: NDArray[np.float32]) -> str:
    from binascii import b2a_base64

    return b2a_base64(vector.astype("<f4").tobytes(), newline=False).decode("ascii")


@cache
def _decoder() -> Callable[[bytes], JsonQuery]:
    import msgspec

    return msgspec.json.Decoder(JsonQuery).decode


@cache
def _envelope() -> Callable[[bytes], Envelope]:
    import msgspec

    return msgspec.json.Decoder(Envelope).decode


@cache
def _encoder() -> Callable[[JsonQuery], bytes]:
    import msgspec

    return msgspec.json.Encoder().encode


def _seconds(occurred_at: str | float | None, timestamp: float | None) -> float:
    if occurred_at is None:
        if timestamp is None:
            raise InvalidRecord("time", "occurred_at is absent, and there is no record timestamp to stand in for it")
        return timestamp
    return _moment(occurred_at) if isinstance(occurred_at, str) else occurred_at


def _moment(text: str) -> float:
    """Seconds of an RFC 3339 text, to the microsecond."""
    import msgspec

    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise InvalidRecord("time", "occurred_at is not RFC 3339, such as 2026-01-31T12:00:00.5Z") from None
    if moment.tzinfo is None:
        raise InvalidRecord("time", "occurred_at has no zone; end it with Z or an offset")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


def _batch(query: JsonQuery, occurred_at: float) -> QueryBatch:
    import numpy as np

    features = _vector(query.features, "features")
    columns: dict[str, Any] = {name: _texts(getattr(query, name)) for name in TEXT_COLUMNS}
    return QueryBatch(
        model=query.model,
        model_version=query.model_version,
        output_kind=query.output_kind,
        event_ids=[query.event_id],
        occurred_at=np.array([occurred_at]),
        principals=[query.principal],
        principal_index=np.zeros(1, dtype=np.int32),
        features=features,
        outputs=_vector(query.outputs, "outputs"),
        missing=_missing(query.missing, features.shape[1]),
        hardness=None if query.hardness is None else np.array([query.hardness], dtype=np.float32),
        leaf=None if query.leaf is None else np.array([_leaf(query.leaf)], dtype=np.int64),
        specification=None if query.specification is None else _row(query.specification),
        **columns,
    )


def _texts(text: str | None) -> list[str] | None:
    return None if text is None else [text]


def _vector(source: str | list[float], field: str) -> NDArray[np.float32]:
    import numpy as np

    if isinstance(source, list):
        if len(source) > DIMENSIONS:
            raise InvalidRecord("dimension", f"{field} have {len(source)} entries; send 1 to {DIMENSIONS}")
        return _row(source)
    return np.frombuffer(_from_base64(source, field), dtype="<f4").reshape(1, -1)


def _row(numbers: list[float] | tuple[float, ...]) -> NDArray[np.float32]:
    import numpy as np

    with np.errstate(over="ignore"):
        return np.array([numbers], dtype=np.float64).astype(np.float32)


def _from_base64(text: str, field: str) -> bytes:
    from binascii import Error, a2b_base64

    try:
        data = a2b_base64(text, strict_mode=True)
    except (Error, ValueError):
        raise InvalidRecord("encoding", f"{field} are not base64 with padding") from None
    if len(data) % 4:
        raise InvalidRecord("encoding", f"{field} hold {len(data)} bytes, which is not a whole number of float32")
    return data


def _missing(marks: list[bool] | None, dimension: int) -> NDArray[np.bool_] | None:
    import numpy as np

    if marks is None:
        return None
    if len(marks) != dimension:
        raise InvalidRecord("length", f"missing has {len(marks)} marks for {dimension} features")
    return np.array([marks], dtype=np.bool_)


def _leaf(leaf: int) -> int:
    if not -(2**63) <= leaf < 2**63:
        raise InvalidRecord("value", "leaf does not fit 64 bits with a sign")
    return leaf
