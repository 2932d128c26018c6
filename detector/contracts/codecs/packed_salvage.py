"""A packed record that the strict decoder refuses, column by column: text that is not UTF-8 or no text, optional
columns and counts of another type."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast, get_args

from detector.contracts.codecs.loose_values import named, number_of, shown, text_of, whole_of
from detector.contracts.codecs.mending import TEXT_COLUMNS
from detector.contracts.codecs.packed_form import (
    BINARY_OPTIONAL,
    LOOSE,
    LOOSE_SCHEMA,
    SCHEMA,
    PackedCount,
    PackedQueries,
)
from detector.contracts.codecs.reading import check_schema
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import CountKind, OutputKind

_REQUIRED = ("occurred_at", "principal_index", "features", "outputs")

Fields = dict[str, Any]
"""Each column as it is in the record, not yet decoded."""


def packed_fields(value: bytes) -> Fields:
    """The columns in ``value``. Raises InvalidRecord where it is no map of names to values."""
    import msgspec

    try:
        return msgspec.msgpack.decode(value, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError as error:
        raise InvalidRecord("structure", f"not a map of columns: {str(error)[:200]}") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidRecord("syntax", f"not msgpack: {str(error)[:200]}") from None


def salvaged(fields: Fields, repaired: Counter[str]) -> PackedQueries:
    """The record that ``fields`` make. Raises InvalidRecord where a column that no row can do without is absent or of
    another type; others are left out."""
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
        event_ids=[text or "" for text in _texts(fields, "event_ids")],
        principals=principals_in(fields),
        counts=_counts(fields, repaired),
        **columns,
    )


def principals_in(fields: Fields) -> list[str]:
    """The principals that ``fields`` name. Raises InvalidRecord where one is no text."""
    return [named(text, "a principal") for text in _texts(fields, "principals")]


def rows_in(fields: Fields) -> int:
    """How many event ids ``fields`` hold; 1 where they do not say."""
    try:
        return len(_texts(fields, "event_ids"))
    except InvalidRecord:
        return 1


def model_in(fields: Fields) -> str:
    """The model that ``fields`` name, empty where they name none."""
    return text_of(_value(fields, "model")) or ""


def _value(fields: Fields, name: str) -> object:
    return _decoded(fields[name]) if name in fields else None


def _decoded(raw: Any) -> object:
    """What ``raw`` is; text that is not UTF-8 with lone surrogates, None for what cannot be read."""
    import msgspec

    data = bytes(raw)
    try:
        return cast("object", msgspec.msgpack.decode(data))
    except UnicodeDecodeError:
        return _loose_text(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _loose_text(data: bytes) -> str | None:
    """The text in ``data``, one msgpack value; None where that is not a text."""
    first = data[0]
    header = 1 if 0xA0 <= first <= 0xBF else {0xD9: 2, 0xDA: 3, 0xDB: 5}.get(first)
    return None if header is None else data[header:].decode("utf-8", "surrogateescape")


def _items(fields: Fields, name: str) -> list[Any] | None:
    """The entries of the list ``name``, not yet decoded; None where there is no such list."""
    import msgspec

    try:
        return msgspec.msgpack.decode(fields[name], type=list[msgspec.Raw])
    except (KeyError, msgspec.DecodeError, ValueError, RecursionError):
        return None


def _texts(fields: Fields, name: str) -> list[str | None]:
    items = _items(fields, name)
    if items is None:
        raise InvalidRecord("structure", f"{name} is {shown(_value(fields, name))}; send a list of texts")
    return [text_of(_decoded(item)) for item in items]


def _names(fields: Fields, name: str) -> list[Any] | None:
    """A list of names or texts, None where it is absent; what is no text is as good as missing."""
    absent = _value(fields, name) is None and _items(fields, name) is None
    texts = [] if absent else _texts(fields, name)
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


def _counts(fields: Fields, repaired: Counter[str]) -> list[PackedCount]:
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
    """One count, None where it does not say who, what or how many."""
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
