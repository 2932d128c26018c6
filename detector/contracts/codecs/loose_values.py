"""What the strict decoders refuse, read once more value by value: slowly, and only then.

One odd value must not cost a row, and one odd row must not cost its neighbours.
"""

from __future__ import annotations

import json
from math import inf, isfinite, nan
from typing import Any

from detector.contracts.errors import InvalidRecord

_MARK = b"\xef\xbb\xbf"
_SHOWN = 40
_DIGITS = 1_000
"""Longer whole numbers are infinite: beyond any float64, and what Python would not read."""


def json_fields(value: bytes) -> dict[str, Any]:
    """The fields of the JSON object in ``value``: NaN, Infinity, a byte order mark and text that is not UTF-8 are
    taken too, the last as lone surrogates. Raises InvalidRecord where it is no object."""
    text = value.removeprefix(_MARK).decode("utf-8", "surrogateescape")
    try:
        fields = json.loads(text, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise InvalidRecord("syntax", f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidRecord(
            "structure", f"the value is {shown(fields)}; send one JSON object with the fields of a query"
        )
    return fields


def _whole(digits: str) -> float:
    if len(digits) > _DIGITS:
        return -inf if digits.startswith("-") else inf
    return int(digits)


def shown(value: object) -> str:
    """``value`` as an error message may quote it; None is absent."""
    if value is None:
        return "absent"
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, (str, bytes)):
        value = value[:_SHOWN]
    return repr(value)[: 2 * _SHOWN]


def text_of(value: object) -> str | None:
    """A text, or the digits of a number, which serves as a name as well; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, float) or not isfinite(value):
        return None
    return str(int(value)) if value == int(value) else str(value)


def named(value: object, field: str) -> str:
    """``text_of(value)``; raises InvalidRecord where there is none."""
    text = text_of(value)
    if text is None:
        raise InvalidRecord("structure", f"{field} is {shown(value)}; send a text")
    return text


def number_of(value: object) -> float | None:
    """``value`` as a float64, NaN for None and infinite where it is beyond one; None where it is no number."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        return None
    return as_float(value)


def as_float(value: Any) -> float:
    """What ``float`` makes of ``value``, but NaN for None and infinite for a whole number beyond float64.

    Raises what ``float`` raises for others.
    """
    if value is None:
        return nan
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def vector_of(value: object, field: str) -> str | list[float | None]:
    """Base64 as it is, a list as numbers, NaN for null, 1 and 0 for booleans. Raises InvalidRecord for anything else,
    and says where."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InvalidRecord("structure", f"{field} is {shown(value)}; send base64 of float32, or a list of numbers")
    numbers: list[float | None] = [float(entry) if isinstance(entry, bool) else number_of(entry) for entry in value]
    if None in numbers:
        at = numbers.index(None)
        advice = f"flatten {field}" if isinstance(value[at], list) else "send numbers, null for what is missing"
        raise InvalidRecord("structure", f"{field}[{at}] is {shown(value[at])}; {advice}")
    return numbers


def marks_of(value: object) -> list[bool] | None:
    """Marks of missing features, 0 and 1 among them; None where ``value`` is no list of marks."""
    if not isinstance(value, list) or not all(mark is None or mark in (0, 1) for mark in value):
        return None
    return [bool(mark) for mark in value]


def whole_of(value: object) -> int | None:
    """``value`` as a whole number of 64 bits; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -(2**63) <= value < 2**63:
        return None
    return int(value) if value == int(value) else None
