"""Infers the kinds of columns from their types and the first rows."""

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
class ColumnLook:
    """``varied``: it has too many different texts for a feature."""

    kind: Kind
    varied: bool = False


def looks_of(sample: Mapping[str, Any], *, texts_only: bool = False) -> dict[str, ColumnLook]:
    """Returns the look of each column of ``sample``, Arrow arrays by name (all texts if ``texts_only``). Leaves out
    columns without a value."""
    looks = {name: _look(column, texts_only) for name, column in sample.items()}
    return {name: look for name, look in looks.items() if look is not None}


def kind_of(type_: Any) -> Kind | None:
    """Returns the kind of columns of the Arrow ``type_``, or None for columns of nulls."""
    import pyarrow.types as of

    if of.is_dictionary(type_):
        return kind_of(type_.value_type)
    tests: tuple[tuple[Kind | None, bool], ...] = (
        (None, of.is_null(type_)),
        ("number", of.is_integer(type_) or of.is_floating(type_) or of.is_decimal(type_) or of.is_boolean(type_)),
        ("time", of.is_temporal(type_)),
        ("list", is_list(type_) and not _holds_names(type_.value_type)),
        ("record", of.is_struct(type_) and all(_is_plain(field.type) for field in type_)),
        ("value", of.is_nested(type_)),
    )
    return next((kind for kind, holds in tests if holds), "text")


def is_list(type_: Any) -> bool:
    """Returns whether ``type_`` is one of Arrow's list types."""
    import pyarrow.types as of

    return any(
        test(type_)
        for test in (of.is_list, of.is_large_list, of.is_fixed_size_list, of.is_list_view, of.is_large_list_view)
    )


def is_text(type_: Any) -> bool:
    """Returns whether ``type_`` holds texts, or bytes that may be texts."""
    import pyarrow.types as of

    tests = (of.is_string, of.is_large_string, of.is_string_view, of.is_binary, of.is_large_binary, of.is_binary_view)
    return any(test(type_) for test in tests)


def _is_plain(type_: Any) -> bool:
    return kind_of(type_) in {None, "number", "text"}


def _holds_names(type_: Any) -> bool:
    import pyarrow.types as of

    return bool(of.is_struct(type_) or of.is_map(type_))


def _look(column: Any, texts_only: bool) -> ColumnLook | None:
    kind = kind_of(column.type)
    if kind == "list" and is_text(column.type.value_type):
        return ColumnLook("list" if _mostly_numbers(as_text(column.flatten().drop_null())) else "value")
    if kind != "text":
        return None if kind is None else ColumnLook(kind)
    values = as_text(column).drop_null()
    if texts_only and not len(values):
        return None
    varied = _distinct(values) > min(_DISTINCT, max(2, len(values) // 2))
    return ColumnLook(_read_as(values, texts_only), varied)


def _read_as(values: Any, texts_only: bool) -> Kind:
    if len(values) and _all(values, _JSON):
        return "value"
    if texts_only and _are_numbers(values):
        return "number"
    return "time" if texts_only and _all(values, _TIME) else "text"


def as_text(column: Any) -> Any:
    """Returns a ``column`` of any Arrow text type as strings."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if pa.types.is_string(column.type) else column.cast(pa.binary()).cast(pa.string(), safe=False)


def _are_numbers(texts: Any) -> bool:
    """Returns whether ``texts`` are numbers with a few bad ones, and not names some of which look like numbers."""
    names = _distinct(texts) <= min(_NAMES, len(texts) // 10) and not _all(texts, _NUMBER)
    return not names and _mostly_numbers(texts)


def values_in(column: Any) -> list[Any]:
    """Returns the values of ``column``; texts as bytes if some are not UTF-8."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return list(column.cast("binary").to_pylist())


def _mostly_numbers(texts: Any) -> bool:
    import pyarrow.compute as pc

    return 2 * (pc.sum(pc.match_substring_regex(texts, _NUMBER)).as_py() or 0) > len(texts)


def _all(texts: Any, pattern: str) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _distinct(values: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.count_distinct(values).as_py())
