"""One query per record, as JSON, which any producer can write. ``schemas/weirguard.query.v1.schema.json``.

A vector is base64 of little-endian float32, or a plain list of numbers, which costs several times more. Features may
be an object of named values, and outputs any form of ``loose.outputs_of``.
"""

from __future__ import annotations

from binascii import Error, a2b_base64
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from math import nan
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from detector.contracts.codecs.limits import DIMENSIONS, check_schema
from detector.contracts.codecs.loose import (
    Fields,
    LooseOutputs,
    NamedRow,
    as_bytes,
    feature_columns,
    json_fields,
    listed_row,
    marks_of,
    named_row,
    number_of,
    output_columns,
    output_kind_of,
    outputs_of,
    required_text,
    shown,
    text_of,
    whole_of,
)
from detector.contracts.codecs.runs import QueryFormat
from detector.contracts.codecs.screening import TEXT_COLUMNS
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import Count, OutputKind, QueryBatch

if TYPE_CHECKING:
    import msgspec
    import numpy as np
else:
    from detector.contracts.lazy import msgspec, np

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
_optional_values = attrgetter(*_OPTIONAL)


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


@dataclass(slots=True)
class _ParsedQuery:
    """One query; ``features`` are bytes of little-endian float32 unless they have names."""

    query: JsonQuery
    occurred_at: float
    features: bytes | NamedRow
    outputs: LooseOutputs

    rows: ClassVar[int] = 1
    counts: ClassVar[Sequence[Count]] = ()


@cache
def _decoder() -> Callable[[bytes], JsonQuery]:
    return msgspec.json.Decoder(JsonQuery).decode


def _loose(fields: Fields, repaired: Counter[str]) -> JsonQuery:
    """Returns the query in ``fields``; drops invalid optional fields. Features may be a NamedRow, outputs are
    LooseOutputs."""
    check_schema(fields.get("schema", SCHEMA), SCHEMA)
    kind = None if fields.get("output_kind") is None else output_kind_of(fields["output_kind"])
    optional = {name: _optional(name, fields[name], repaired) for name in _OPTIONAL if fields.get(name) is not None}
    occurred_at = fields.get("occurred_at")
    if occurred_at is not None and not isinstance(occurred_at, str):
        number = number_of(occurred_at)
        occurred_at = nan if number is None else number
    return JsonQuery(
        event_id=text_of(fields.get("event_id")) or "",
        principal=required_text(fields.get("principal"), "principal"),
        model=required_text(fields.get("model"), "model"),
        model_version=required_text(fields.get("model_version"), "model_version"),
        features=_loose_features(fields.get("features"), optional),
        outputs=cast("Any", outputs_of(fields.get("outputs"), kind)),
        output_kind=kind,
        occurred_at=occurred_at,
        **optional,
    )


def _optional(name: str, value: Any, repaired: Counter[str]) -> Any:
    """Returns the optional field ``name``, or None if ``value`` is invalid."""
    read: Any
    if name in TEXT_COLUMNS:
        read = text_of(value)
    elif name == "missing":
        read = marks_of(value)
    elif name == "leaf":
        read = whole_of(value)
    elif name == "hardness":
        read = number_of(value)
    else:
        pair = [number_of(entry) for entry in value] if isinstance(value, list) and len(value) == 2 else [None]
        read = None if None in pair else tuple(pair)
    if read is None:
        repaired["attribute" if name in TEXT_COLUMNS else "column"] += 1
    return read


def _loose_features(features: Any, optional: dict[str, Any]) -> Any:
    """Returns base64 or an object unchanged, and a list as numbers, 1 and 0 for booleans, or named by position if
    texts are among them. Raises InvalidRecord with the position for anything else."""
    if isinstance(features, (str, dict)):
        return features
    if not isinstance(features, list):
        raise InvalidRecord("structure", f"features is {shown(features)}; send base64 of float32, or a list of numbers")
    if any(isinstance(entry, str) for entry in features):
        return listed_row(features, optional.pop("missing", None))
    numbers = [float(entry) if isinstance(entry, bool) else number_of(entry) for entry in features]
    if None in numbers:
        at = numbers.index(None)
        advice = "flatten features" if isinstance(features[at], list) else "send numbers, null for what is missing"
        raise InvalidRecord("structure", f"features[{at}] is {shown(features[at])}; {advice}")
    return numbers


def _parse(query: JsonQuery, timestamp: float | None, repaired: Counter[str]) -> _ParsedQuery:
    check_schema(query.schema, SCHEMA)
    features = _parse_features(query.features)
    marks = query.missing
    if marks is not None and (isinstance(features, NamedRow) or 4 * len(marks) != len(features)):
        query.missing = None
        repaired["column"] += 1
    if query.leaf is not None and not -(2**63) <= query.leaf < 2**63:
        query.leaf = None
        repaired["column"] += 1
    occurred_at = timestamp if query.occurred_at is None else query.occurred_at
    seconds = _parse_time(occurred_at) if isinstance(occurred_at, str) else nan if occurred_at is None else occurred_at
    return _ParsedQuery(query, seconds, features, _parse_outputs(query.outputs, query.output_kind))


def _parse_time(text: str) -> float:
    """Returns the seconds of an RFC 3339 text, to the microsecond; NaN if it is invalid or has no zone."""
    try:
        time = msgspec.convert(text, datetime)
    except (msgspec.ValidationError, ValueError):
        return nan
    return nan if time.tzinfo is None else (time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


def _parse_features(features: Any) -> bytes | NamedRow:
    if isinstance(features, list):
        return _vector(features, "features")
    if isinstance(features, str):
        return _from_base64(features)
    return named_row(features) if isinstance(features, dict) else features


def _parse_outputs(outputs: Any, kind: OutputKind | None) -> LooseOutputs:
    if type(outputs) is list and len(outputs) > 1 and kind != "none":  # as strictly decoded, numbers alone
        return LooseOutputs(kind or "probabilities", _vector(outputs, "outputs"))
    return outputs if type(outputs) is LooseOutputs else outputs_of(outputs, kind)


def _vector(numbers: list[float | None], field: str) -> bytes:
    if len(numbers) > DIMENSIONS:
        raise InvalidRecord("dimension", f"{field} have {len(numbers)} entries; send 1 to {DIMENSIONS}")
    return as_bytes(numbers)


def _from_base64(text: str) -> bytes:
    try:
        data = a2b_base64(text, strict_mode=True)
    except (Error, ValueError):
        raise InvalidRecord("encoding", "features are not base64 with padding") from None
    if len(data) % 4:
        raise InvalidRecord("encoding", f"features hold {len(data)} bytes, which is not a whole number of float32")
    return data


def _layout(parsed: _ParsedQuery) -> tuple[object, ...]:
    query, features, outputs = parsed.query, parsed.features, parsed.outputs
    absent = tuple([value is None for value in _optional_values(query)])
    columns = len(features) if isinstance(features, bytes) else features.names
    unnamed = outputs.names is None
    return str(query.model), str(query.model_version), columns, outputs.kind, len(outputs.values), unnamed, absent


def _batch(alike: Sequence[_ParsedQuery]) -> QueryBatch:
    queries, first = [parsed.query for parsed in alike], alike[0]
    numbers: dict[str, int] = {}
    index = [numbers.setdefault(str(query.principal), len(numbers)) for query in queries]
    rows: list[Any] = [parsed.features for parsed in alike]
    if isinstance(rows[0], NamedRow):
        columns = feature_columns(rows)
    else:
        columns = {"features": np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), len(rows[0]) // 4)}
    return QueryBatch(
        model=str(first.query.model),
        model_version=str(first.query.model_version),
        output_kind=first.outputs.kind,
        event_ids=[str(query.event_id) for query in queries],
        occurred_at=np.array([parsed.occurred_at for parsed in alike]),
        principals=list(numbers),
        principal_index=np.array(index, dtype=np.int32),
        **columns,
        **output_columns([parsed.outputs for parsed in alike]),
        **{name: _column(queries, name) for name in _OPTIONAL},
    )


def _column(queries: list[JsonQuery], name: str) -> Any:
    """Returns an optional column, or None if these queries have none."""
    if getattr(queries[0], name) is None:
        return None
    entries = [getattr(query, name) for query in queries]
    dtype = _OPTIONAL[name]
    if dtype is None:
        return entries
    with np.errstate(over="ignore"):
        return np.array(entries, dtype=dtype if dtype != "float32" else np.float64).astype(dtype)


_FORMAT = QueryFormat(
    decoder=_decoder,
    fields=json_fields,
    loose=_loose,
    parse=_parse,
    owners=lambda fields: ([text_of(fields.get("principal"))], 1),
    layout=_layout,
    batch=_batch,
    by_row=False,
)
decode_json_run = _FORMAT.decode_run
"""Returns the queries in JSON records, one each; see ``QueryFormat.decode_run``."""
decode_json = _FORMAT.decode
"""Returns the query in one JSON record; see ``QueryFormat.decode``."""
