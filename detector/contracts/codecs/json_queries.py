"""One query per record, as JSON, which any producer can write. ``schemas/weirguard.query.v1.schema.json``.

A vector is base64 of little-endian float32, or a plain list of numbers, which costs several times more. Features may
be an object of named values, and outputs any form of ``loose_outputs``.
"""

from __future__ import annotations

from binascii import Error, a2b_base64
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from math import isnan, nan
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from detector.contracts.codecs.limits import DIMENSIONS, check_schema, check_size
from detector.contracts.codecs.loose import (
    LooseOutputs,
    NamedRow,
    as_bytes,
    columns_of,
    json_fields,
    listed_row,
    marks_of,
    named,
    named_row,
    number_of,
    output_columns,
    outputs_of,
    shown,
    text_of,
    vector_of,
    whole_of,
)
from detector.contracts.codecs.screening import TEXT_COLUMNS, by_layout, screen
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import names_one, usable_principal
from detector.contracts.queries import DecodedRun, OutputKind, QueryBatch

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
"""Optional fields with their dtypes; None for texts."""


@dataclass(slots=True)
class JsonQuery:
    """The record in its written form."""

    event_id: str | int
    principal: str | int
    model: str | int
    model_version: str | int
    features: str | list[float | None] | dict[str, float | bool | str | None]
    outputs: float | bool | str | list[float | None] | dict[str, float | None] | None = None
    output_kind: OutputKind | None = None
    occurred_at: str | float | None = None
    missing: list[bool] | None = None
    hardness: float | None = None
    leaf: int | None = None
    specification: tuple[float | None, float | None] | None = None
    served_mode: str | None = None
    network_prefix: str | None = None
    organisation: str | None = None
    user_agent_hash: str | None = None
    schema: str = SCHEMA


def decode_json_run(values: Sequence[bytes | None], timestamps: Sequence[float | None]) -> DecodedRun:
    """Returns the queries in ``values``, one each; ``row`` is -1 in all ``bad``.

    ``timestamps`` (seconds) replace an absent or invalid ``occurred_at``; with None that field is mandatory. Does not
    raise for a bad value; its reason is one of ``limits.REASONS``.
    """
    run = DecodedRun()
    given = enumerate(zip(values, timestamps, strict=True))
    parsed = [one for place, (value, time) in given if (one := _take(place, value, time, run)) is not None]
    for alike in by_layout(parsed, _layout):
        _screen(alike, timestamps, run)
    return run


@cache
def _decoder() -> Callable[[bytes], JsonQuery]:
    import msgspec

    return msgspec.json.Decoder(JsonQuery).decode


@cache
def _undecodable() -> tuple[type[Exception], ...]:
    import msgspec

    return msgspec.DecodeError, ValueError, RecursionError


def _seconds(occurred_at: str | float | None, timestamp: float | None) -> float:
    """Returns a time, or NaN for an invalid one, which is replaced later."""
    if occurred_at is None:
        return nan if timestamp is None else timestamp
    return _moment(occurred_at) if isinstance(occurred_at, str) else occurred_at


def _moment(text: str) -> float:
    """Returns the seconds of an RFC 3339 text, to the microsecond; NaN if it is invalid or has no zone."""
    import msgspec

    try:
        moment = msgspec.convert(text, datetime)
    except (msgspec.ValidationError, ValueError):
        return nan
    return nan if moment.tzinfo is None else (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


@dataclass(slots=True)
class _Parsed:
    """One query with its names; vectors are bytes of little-endian float32."""

    place: int
    query: JsonQuery
    event_id: str
    principal: str
    model: str
    model_version: str
    occurred_at: float
    features: bytes | NamedRow
    outputs: LooseOutputs


def _take(place: int, value: bytes | None, timestamp: float | None, run: DecodedRun) -> _Parsed | None:
    """Returns the query in ``value``, or None if it is refused, and adds the refusal to ``run``."""
    model: object = None
    principal: object = None
    try:
        data = check_size(value)
        try:
            query = _decoder()(data)
        except _undecodable():
            fields = json_fields(data)
            model, principal = fields.get("model"), fields.get("principal")
            query = _salvaged(fields, run.repaired)
        else:
            model, principal = query.model, query.principal
            check_schema(query.schema, SCHEMA)
        return _parse(place, query, timestamp, run.repaired)
    except InvalidRecord as error:
        whose, who = text_of(model) or "", text_of(principal)
        run.refuse(place, error, whose if names_one(whose) else "", "" if who is None else usable_principal(who))
        return None


def _parse(place: int, query: JsonQuery, timestamp: float | None, repaired: Counter[str]) -> _Parsed:
    features = _features(query.features)
    marks = query.missing
    if marks is not None and (isinstance(features, NamedRow) or 4 * len(marks) != len(features)):
        query.missing = None
        repaired["column"] += 1
    if query.leaf is not None and not -(2**63) <= query.leaf < 2**63:
        query.leaf = None
        repaired["column"] += 1
    return _Parsed(
        place,
        query,
        str(query.event_id),
        str(query.principal),
        str(query.model),
        str(query.model_version),
        _seconds(query.occurred_at, timestamp),
        features,
        _outputs(query.outputs, query.output_kind),
    )


def _salvaged(fields: dict[str, Any], repaired: Counter[str]) -> JsonQuery:
    """Returns the query in ``fields``; drops invalid optional fields."""
    check_schema(fields.get("schema", SCHEMA), SCHEMA)
    kind = fields.get("output_kind")
    if kind is not None and kind not in get_args(OutputKind):
        raise InvalidRecord("structure", f"output_kind is {shown(kind)}; use {', '.join(get_args(OutputKind))}")
    optional = {name: _optional(name, fields[name], repaired) for name in _OPTIONAL if fields.get(name) is not None}
    occurred_at = fields.get("occurred_at")
    return JsonQuery(
        event_id=text_of(fields.get("event_id")) or "",
        principal=named(fields.get("principal"), "principal"),
        model=named(fields.get("model"), "model"),
        model_version=named(fields.get("model_version"), "model_version"),
        features=_salvaged_features(fields.get("features"), optional),
        outputs=cast("Any", outputs_of(fields.get("outputs"), kind)),
        output_kind=cast("OutputKind | None", kind),
        occurred_at=occurred_at if occurred_at is None or isinstance(occurred_at, str) else _or_nan(occurred_at),
        **optional,
    )


def _salvaged_features(given: Any, optional: dict[str, Any]) -> Any:
    if isinstance(given, list) and any(isinstance(entry, str) for entry in given):
        return listed_row(given, optional.pop("missing", None))
    return given if isinstance(given, dict) else vector_of(given, "features")


def _optional(name: str, value: object, repaired: Counter[str]) -> Any:
    """Returns the optional field ``name``, or None if ``value`` is invalid."""
    found: Any
    if name in TEXT_COLUMNS:
        found = text_of(value)
    elif name == "missing":
        found = marks_of(value)
    elif name == "leaf":
        found = whole_of(value)
    elif name == "hardness":
        found = number_of(value)
    else:
        pair = [number_of(entry) for entry in value] if isinstance(value, list) and len(value) == 2 else [None]
        found = None if None in pair else tuple(pair)
    if found is None:
        repaired["attribute" if name in TEXT_COLUMNS else "column"] += 1
    return found


def _or_nan(value: object) -> float:
    number = number_of(value)
    return nan if number is None else number


def _layout(parsed: _Parsed) -> tuple[object, ...]:
    query = parsed.query
    carried = tuple([getattr(query, name) is None for name in _OPTIONAL])
    features, outputs = parsed.features, parsed.outputs
    told = len(features) if isinstance(features, bytes) else features.names
    named = outputs.names is None
    return parsed.model, parsed.model_version, told, outputs.kind, len(outputs.values), named, carried


def _screen(alike: list[_Parsed], timestamps: Sequence[float | None], run: DecodedRun) -> None:
    import numpy as np

    def moments() -> NDArray[np.float64]:
        return np.array([timestamps[parsed.place] for parsed in alike], dtype=np.float64)

    places = np.array([parsed.place for parsed in alike], dtype=np.int64)
    decoded = screen(_batch(alike), run.repaired, moments)
    run.bad.extend((alike[bad.row].place, replace(bad, row=-1)) for bad in decoded.bad_rows)
    if decoded.batch is not None:
        run.parts.append((decoded.batch, places[decoded.rows], np.zeros(len(decoded.rows), dtype=np.int64)))


def _batch(alike: list[_Parsed]) -> QueryBatch:
    import numpy as np

    queries, first = [parsed.query for parsed in alike], alike[0]
    numbers: dict[str, int] = {}
    index = [numbers.setdefault(parsed.principal, len(numbers)) for parsed in alike]
    columns: dict[str, Any] = {name: _column(queries, name) for name in _OPTIONAL}
    return QueryBatch(
        model=first.model,
        model_version=first.model_version,
        output_kind=first.outputs.kind,
        event_ids=[parsed.event_id for parsed in alike],
        occurred_at=np.array([parsed.occurred_at for parsed in alike]),
        principals=list(numbers),
        principal_index=np.array(index, dtype=np.int32),
        **_feature_columns([parsed.features for parsed in alike]),
        **output_columns([parsed.outputs for parsed in alike]),
        **columns,
    )


def _column(queries: list[JsonQuery], name: str) -> Any:
    """Returns an optional column, or None if these queries have none."""
    import numpy as np

    if getattr(queries[0], name) is None:
        return None
    entries = [getattr(query, name) for query in queries]
    kind = _OPTIONAL[name]
    if kind is None:
        return entries
    with np.errstate(over="ignore"):
        return np.array(entries, dtype=kind if kind != "float32" else np.float64).astype(kind)


def _feature_columns(rows: list[Any]) -> dict[str, Any]:
    import numpy as np

    if isinstance(rows[0], NamedRow):
        return columns_of(rows)
    return {"features": np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), len(rows[0]) // 4)}


def _features(given: Any) -> bytes | NamedRow:
    if isinstance(given, list):
        return _vector(given, "features")
    if isinstance(given, str):
        return _from_base64(given, "features")
    return named_row(given) if isinstance(given, dict) else given


def _outputs(given: Any, kind: OutputKind | None) -> LooseOutputs:
    if type(given) is list and len(given) > 1 and kind != "none":  # as strictly decoded, numbers alone
        return LooseOutputs(kind or "probabilities", _vector(given, "outputs"))
    return given if type(given) is LooseOutputs else outputs_of(given, kind)


def _vector(source: list[float | None], field: str) -> bytes:
    if len(source) > DIMENSIONS:
        raise InvalidRecord("dimension", f"{field} have {len(source)} entries; send 1 to {DIMENSIONS}")
    return as_bytes(source)


def _from_base64(text: str, field: str) -> bytes:
    try:
        data = a2b_base64(text, strict_mode=True)
    except (Error, ValueError):
        raise InvalidRecord("encoding", f"{field} are not base64 with padding") from None
    if len(data) % 4:
        raise InvalidRecord("encoding", f"{field} hold {len(data)} bytes, which is not a whole number of float32")
    return data


def encode_json_query(batch: QueryBatch, row: int = 0) -> bytes:
    """Returns one row of ``batch`` as a record value: vectors in base64, named values as an object."""
    optional: dict[str, Any] = {name: _at(getattr(batch, name), row) for name in ("hardness", "leaf", *TEXT_COLUMNS)}
    if batch.missing is not None and batch.feature_names is None:
        optional["missing"] = batch.missing[row].tolist()
    return _encoder()(
        JsonQuery(
            event_id=batch.event_ids[row],
            principal=batch.principals[int(batch.principal_index[row])],
            model=batch.model,
            model_version=batch.model_version,
            features=_base64(batch.features[row]) if batch.feature_names is None else _named(batch, row),
            outputs=_written_outputs(batch, row),
            output_kind=batch.output_kind,
            occurred_at=float(batch.occurred_at[row]),
            specification=None if batch.specification is None else tuple(batch.specification[row].tolist()),
            **optional,
        )
    )


def _named(batch: QueryBatch, row: int) -> dict[str, float | bool | str | None]:
    missing = None if batch.missing is None else batch.missing[row].tolist()
    numbers = batch.features[row].tolist()
    values = [None if isnan(value) or (missing and missing[at]) else value for at, value in enumerate(numbers)]
    texts = [] if batch.texts is None else batch.texts[row].tolist()
    return dict(zip(batch.feature_names or (), [*values, *texts], strict=True))


def _written_outputs(batch: QueryBatch, row: int) -> Any:
    if batch.output_kind == "none":
        return None
    if batch.output_names is None:
        return _base64(batch.outputs[row])
    names = batch.output_names[row].tolist()
    return names[0] if batch.output_kind == "label" else dict(zip(names, batch.outputs[row].tolist(), strict=True))


def _at(column: Any, row: int) -> Any:
    if column is None or isinstance(column, list):
        return column and column[row]
    return column[row].item()


def _base64(vector: NDArray[np.float32]) -> str:
    from binascii import b2a_base64

    return b2a_base64(vector.astype("<f4").tobytes(), newline=False).decode("ascii")


@cache
def _encoder() -> Callable[[JsonQuery], bytes]:
    import msgspec

    return msgspec.json.Encoder().encode
