"""One query a record, as JSON: what any producer can write. ``schemas/weirguard.query.v1.schema.json``.

A vector is base64 of little-endian float32, or a plain list of numbers, which costs several times more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from detector.contracts.codecs.limits import DIMENSIONS
from detector.contracts.codecs.reading import Envelope, by_layout, check_schema, check_size, read
from detector.contracts.codecs.screening import TEXT_COLUMNS, screen
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import BadRow, DecodedRun, OutputKind, QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA: Final = "weirguard.query/1"
JSON_CONTENT_TYPE: Final = "application/json"

_OPTIONAL: Final[dict[str, str | None]] = {
    "missing": "bool",
    "hardness": "float32",
    "leaf": "int64",
    "specification": "float32",
    **dict.fromkeys(TEXT_COLUMNS),
}
"""Optional fields and their dtypes; None for texts."""


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


def decode_json_run(values: Sequence[bytes | None], timestamps: Sequence[float | None]) -> DecodedRun:
    """The queries in ``values``, one each, so that ``row`` is -1 in all ``bad``.

    ``timestamps`` (seconds) stand in for an absent ``occurred_at``; None makes that field mandatory. Nothing is raised
    for a bad value; its reason is one of ``limits.REASONS``.
    """
    run = DecodedRun()
    parsed: list[_Parsed] = []
    for place, (value, timestamp) in enumerate(zip(values, timestamps, strict=True)):
        try:
            parsed.append(_parse(place, value, timestamp))
        except InvalidRecord as error:
            run.refuse(place, error)
    for alike in by_layout(parsed, _layout):
        _screen(alike, run)
    return run


def decode_json_query(value: bytes, *, timestamp: float | None) -> QueryBatch:
    """The query in ``value`` as a batch of one row. Raises InvalidRecord; otherwise as :func:`decode_json_run`."""
    run = decode_json_run([value], [timestamp])
    for _, fault in run.bad:
        raise InvalidRecord(fault.reason, fault.detail)
    return run.parts[0][0]


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


@dataclass(slots=True)
class _Parsed:
    """One query, its vectors as bytes of little-endian float32."""

    place: int
    query: JsonQuery
    occurred_at: float
    features: bytes
    outputs: bytes


def _parse(place: int, value: bytes | None, timestamp: float | None) -> _Parsed:
    query = read(check_size(value), _decoder(), _envelope(), SCHEMA)
    check_schema(query.schema, SCHEMA)
    features = _vector(query.features, "features")
    if query.missing is not None and 4 * len(query.missing) != len(features):
        marks = f"missing has {len(query.missing)} marks for {len(features) // 4} features"
        raise InvalidRecord("length", marks)
    if query.leaf is not None and not -(2**63) <= query.leaf < 2**63:
        raise InvalidRecord("value", "leaf does not fit 64 bits with a sign")
    return _Parsed(place, query, _seconds(query.occurred_at, timestamp), features, _vector(query.outputs, "outputs"))


def _layout(parsed: _Parsed) -> tuple[object, ...]:
    query = parsed.query
    carried = tuple(getattr(query, name) is None for name in _OPTIONAL)
    return query.model, query.model_version, query.output_kind, len(parsed.features), len(parsed.outputs), carried


def _screen(alike: list[_Parsed], run: DecodedRun) -> None:
    import numpy as np

    places = np.array([parsed.place for parsed in alike], dtype=np.int64)
    try:
        decoded = screen(_batch(alike))
    except InvalidRecord as error:
        for parsed in alike:
            run.refuse(parsed.place, error)
        return
    run.bad.extend((alike[bad.row].place, BadRow(-1, bad.reason, bad.detail)) for bad in decoded.bad_rows)
    if decoded.batch is not None:
        run.parts.append((decoded.batch, places[decoded.rows], np.zeros(len(decoded.rows), dtype=np.int64)))


def _batch(alike: list[_Parsed]) -> QueryBatch:
    import numpy as np

    queries, first = [parsed.query for parsed in alike], alike[0].query
    numbers: dict[str, int] = {}
    index = [numbers.setdefault(query.principal, len(numbers)) for query in queries]
    columns: dict[str, Any] = {name: _column(queries, name) for name in _OPTIONAL}
    return QueryBatch(
        model=first.model,
        model_version=first.model_version,
        output_kind=first.output_kind,
        event_ids=[query.event_id for query in queries],
        occurred_at=np.array([parsed.occurred_at for parsed in alike]),
        principals=list(numbers),
        principal_index=np.array(index, dtype=np.int32),
        features=_matrix([parsed.features for parsed in alike]),
        outputs=_matrix([parsed.outputs for parsed in alike]),
        **columns,
    )


def _column(queries: list[JsonQuery], name: str) -> Any:
    """An optional column, None where these queries do not carry it."""
    import numpy as np

    if getattr(queries[0], name) is None:
        return None
    entries = [getattr(query, name) for query in queries]
    kind = _OPTIONAL[name]
    if kind is None:
        return entries
    with np.errstate(over="ignore"):
        return np.array(entries, dtype=kind if kind != "float32" else np.float64).astype(kind)


def _matrix(rows: list[bytes]) -> NDArray[np.float32]:
    import numpy as np

    return np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), len(rows[0]) // 4)


def _vector(source: str | list[float], field: str) -> bytes:
    import numpy as np

    if isinstance(source, str):
        return _from_base64(source, field)
    if len(source) > DIMENSIONS:
        raise InvalidRecord("dimension", f"{field} have {len(source)} entries; send 1 to {DIMENSIONS}")
    with np.errstate(over="ignore"):
        return np.array(source, dtype=np.float64).astype("<f4").tobytes()


def _from_base64(text: str, field: str) -> bytes:
    from binascii import Error, a2b_base64

    try:
        data = a2b_base64(text, strict_mode=True)
    except (Error, ValueError):
        raise InvalidRecord("encoding", f"{field} are not base64 with padding") from None
    if len(data) % 4:
        raise InvalidRecord("encoding", f"{field} hold {len(data)} bytes, which is not a whole number of float32")
    return data
