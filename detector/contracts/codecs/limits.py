"""Limits of records, and the reasons of refusal.

Limits on text count characters, so that JSON Schemas and codecs have the same limit.
"""

from __future__ import annotations

import re
from typing import Final

from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import CONTROL

RECORD_BYTES: Final = 1_048_576
"""Maximum size of a record value, bytes."""

PACKED_BYTES: Final = 900_000
"""Maximum size of a written packed record, bytes; with headers it fits Kafka's default limit."""

UNREAD_CONTENT_TYPE: Final = b"application/vnd.weirguard.unread"
"""Stands for the value of a record that was not read because its batch would decompress to far too much."""

DIMENSIONS: Final = 65_536
OUTPUTS: Final = 65_536
TEXT_CHARACTERS: Final = 4_096
LARGEST_FLOAT32: Final = 3.4028234663852886e38
MOST_COUNTED: Final = 1 << 40
"""Counts of this many queries or more are refused, because the sum of counts must fit a record."""
LATEST_TIME: Final = 253_402_300_800.0
"""Midnight after 31 December 9999, in seconds since 1970."""

PROBABILITY_SUM_TOLERANCE: Final = 0.05
"""Maximum distance of a sum of probabilities from 1; allows ten classes rounded to two decimals."""

REASONS: Final[dict[str, str]] = {
    "empty": "the value has no bytes",
    "too-large": "the value is over a limit",
    "content-type": "the content-type header names a format that is not known here",
    "syntax": "the bytes are not JSON or msgpack, are cut short or nested too deep",
    "schema": "the schema field names another record or an unknown version",
    "structure": "a mandatory field is absent or of the wrong type",
    "length": "two fields that must have the same length do not",
    "dimension": "the vector has no entry, or too many",
    "encoding": "a vector in base64 is not base64, or not whole float32 numbers",
    "identity": "a name is empty, reserved, too long or holds control characters; of a query: its model or version",
    "time": "a time is not between 1970 and 9999 and has no replacement, or contradicts another time",
    "non-finite": "an output, or a number of another record, is NaN or infinite",
    "outputs": "the outputs are not of their kind: probabilities, a class number or scores",
    "counts": "a count of queries is below one, or of another model than its record",
    "attribute": "an optional text of another record than a query is too long or holds control characters",
    "action": "an action, its parameter or its duration is absent, or present where it has no meaning",
    "value": "a number is outside its range",
}
"""Reasons why a record, or a row of it, is refused."""

FORM_REPAIRS: Final[dict[str, str]] = {
    "unknown": "a feature whose name the profile does not know: left out",
    "absent": "a feature of the profile that is not named: missing",
    "unreadable": "a text that is not a number where the profile has one: missing",
    "category": "a text or number that no honest query had there: one additional value stands for all of these",
    "output": "an output that is not in the profile: a probability is cut to 0 to 1, a class is unknown",
}
"""Repairs per row because a query does not match the form of its profile."""

REPAIRS: Final[dict[str, str]] = {
    "event_id": "an event id that is absent or not usable: replaced by one derived from it",
    "principal": "a principal that is not a usable name: replaced by a name derived from it",
    "attribute": "an optional text that is too long, holds control characters or is no text: cut, marked or left out",
    "text": "a text or a name of a loose query that is too long or holds control characters: cut, marked",
    "missing": "a NaN that the given mask does not mark: marked as missing",
    "clipped": "an infinite feature, or one beyond float32: replaced by the largest float32",
    "time": "an invalid time: replaced by that of the record",
    "column": "an optional column of another type or length than the rows have: left out",
    "number": "an optional number that is infinite or not a number: left out",
    "count": "an invalid count of queries: left out",
    "reason": "an invalid reason why queries were not judged: replaced by 'other'",
    **FORM_REPAIRS,
}
"""Repairs of a query that keep its row."""

_WORD = re.compile("[a-z-]{0,40}")
_ASCII_CONTROLS = bytes([*range(32), 127])


def make_plain(text: str, characters: int) -> str:
    """Returns ``text`` cut to ``characters``, with a mark in place of each control character."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text[:characters])


def is_word(text: str) -> bool:
    """Returns whether ``text`` may be a reason: up to 40 lower-case letters and hyphens, possibly empty."""
    return _WORD.fullmatch(text) is not None


def are_plain(texts: list[str], characters: int) -> bool:
    """Returns True if no text is empty and all are plain. A fast check: False means that each must be checked."""
    lengths = set(map(len, texts))
    joined = "".join(texts)
    if not joined.isascii():
        return 0 not in lengths and max(lengths) <= characters and joined.isprintable()
    data = joined.encode("ascii")
    clean = len(data.translate(None, _ASCII_CONTROLS)) == len(data)
    return clean and 0 not in lengths and max(lengths, default=1) <= characters


def is_time(seconds: float) -> bool:
    """Returns whether ``seconds`` since 1970 is before the year 10000; False for NaN."""
    return 0.0 <= seconds < LATEST_TIME


def check_size(value: bytes | None) -> bytes:
    """Returns ``value``. Raises InvalidRecord unless it has one to RECORD_BYTES bytes."""
    if not value:
        raise InvalidRecord("empty", "the record has no value; send one query or one packed batch")
    if len(value) > RECORD_BYTES:
        raise InvalidRecord("too-large", f"the value has {len(value)} bytes; send at most {RECORD_BYTES}")
    return value


def check_schema(found: str | None, schema: str) -> None:
    """Raises InvalidRecord unless ``found`` is ``schema``."""
    if found != schema:
        raise InvalidRecord("schema", f"the schema field is {str(found)[:64]!r}; this version reads {schema!r}")
