"""Infers what the columns of a table hold, from their Arrow types and the first rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["number", "text", "time", "list", "record", "value"]
"""``record``: named numbers and texts; ``value``: any other JSON value, or JSON in a text."""

_DISTINCT, _NAMES = 100, 20
_JSON = r"^\s*[\[{]"
_NUMBER = r"(?i)^\s*([+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?|nan|true|false)\s*$"
_TIME = r"^\s*\d{4}-\d\d-\d\d([T ]\d\d:\d\d|\s*$)"


@dataclass(frozen=True, slots=True)
class ColumnKind:
    """``varied``: the column has too many different texts for a feature."""

    kind: Kind
    varied: bool = False


def kinds_of(sample: Mapping[str, Any], *, texts_only: bool = False) -> dict[str, ColumnKind]:
    """Returns the kind of each column of ``sample``, Arrow arrays by name (all texts if ``texts_only``). Leaves out
    columns without a value."""
    kinds = {name: _column_kind(column, texts_only) for name, column in sample.items()}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def kind_of(type_: Any) -> Kind | None:
    """Returns the kind of columns of the Arrow ``type_``, or None for columns of nulls."""
    import pyarrow.types as of

    if of.is_dictionary(type_):
        return kind_of(type_.value_type)
    tests: tuple[tuple[Kind | None, bool], ...] = (
        (None, of.is_null(type_)),
        ("number", of.is_integer(type_) or of.is_floating(type_) or of.is_decimal(type_) or of.is_boolean(type_)),
        ("time", of.is_temporal(type_)),
        ("list", is_list(type_) and not (of.is_struct(type_.value_type) or of.is_map(type_.value_type))),
        ("record", of.is_struct(type_) and all(kind_of(field.type) in {None, "number", "text"} for field in type_)),
        ("value", of.is_nested(type_)),
    )
    return next((kind for kind, holds in tests if holds), "text")


def is_list(type_: Any) -> bool:
    """Returns whether ``type_`` is one of Arrow's list types."""
    import pyarrow.types as of

    tests = (of.is_list, of.is_large_list, of.is_fixed_size_list, of.is_list_view, of.is_large_list_view)
    return any(test(type_) for test in tests)


def is_text(type_: Any) -> bool:
    """Returns whether ``type_`` holds texts, or bytes that may be texts."""
    import pyarrow.types as of

    tests = (of.is_string, of.is_large_string, of.is_string_view, of.is_binary, of.is_large_binary, of.is_binary_view)
    return any(test(type_) for test in tests)


def as_text(column: Any) -> Any:
    """Returns a ``column`` of any Arrow text type as strings."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if pa.types.is_string(column.type) else column.cast(pa.binary()).cast(pa.string(), safe=False)


def values_in(column: Any) -> list[Any]:
    """Returns the values of ``column``; texts as bytes if some are not UTF-8."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return list(column.cast("binary").to_pylist())


def too_varied(distinct: int, values: int) -> bool:
    """Returns whether a column of texts has too many ``distinct`` ones among its ``values`` for a feature."""
    return distinct > min(_DISTINCT, max(2, values // 2))


def _column_kind(column: Any, texts_only: bool) -> ColumnKind | None:
    kind = kind_of(column.type)
    if kind == "list" and is_text(column.type.value_type):
        return ColumnKind("list" if _mostly_numbers(as_text(column.flatten().drop_null())) else "value")
    if kind != "text":
        return None if kind is None else ColumnKind(kind)
    texts = as_text(column).drop_null()
    if texts_only and not len(texts):
        return None
    return ColumnKind(_text_kind(texts, texts_only), too_varied(_distinct(texts), len(texts)))


def _text_kind(texts: Any, texts_only: bool) -> Kind:
    if len(texts) and _all_match(texts, _JSON):
        return "value"
    if not texts_only:
        return "text"
    # Numbers may have a few bad ones among them; names may look like numbers.
    names = _distinct(texts) <= min(_NAMES, len(texts) // 10) and not _all_match(texts, _NUMBER)
    if not names and _mostly_numbers(texts):
        return "number"
    return "time" if _all_match(texts, _TIME) else "text"


def _mostly_numbers(texts: Any) -> bool:
    import pyarrow.compute as pc

    return 2 * (pc.sum(pc.match_substring_regex(texts, _NUMBER)).as_py() or 0) > len(texts)


def _all_match(texts: Any, pattern: str) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _distinct(texts: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.count_distinct(texts).as_py())
