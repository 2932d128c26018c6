"""What a record may hold, and the words for why one was refused.

The limits on text count characters, so that the JSON Schemas and the codecs draw the same line.
"""

from __future__ import annotations

import re
from typing import Final

from detector.contracts.principals import EVERYONE

RECORD_BYTES: Final = 1_048_576
"""The largest value that is looked at at all."""

PACKED_BYTES: Final = 900_000
"""The largest packed record that is written, so that it fits Kafka's default limit with its headers."""

DIMENSIONS: Final = 65_536
OUTPUTS: Final = 65_536
EVENT_ID_CHARACTERS: Final = 128
NAME_CHARACTERS: Final = 256
TEXT_CHARACTERS: Final = 4_096
LATEST_TIME: Final = 253_402_300_800.0
"""Midnight after 31 December 9999, in seconds since 1970."""

PROBABILITY_SUM_TOLERANCE: Final = 0.05
"""How far from 1 probabilities may add up: room for ten classes rounded to two decimals."""

REASONS: Final[dict[str, str]] = {
    "empty": "the value has no bytes",
    "too-large": "the value, or what it claims to hold, is over a limit",
    "content-type": "the content-type header names a format that is not known here",
    "syntax": "the bytes are not JSON or msgpack, not UTF-8, cut short or nested too deep",
    "schema": "the schema field names another record or an unknown version",
    "structure": "a field is absent or of the wrong type",
    "length": "two fields that must have the same length do not",
    "dimension": "the vector has no entry, or too many",
    "encoding": "a vector in base64 is not base64, or not whole float32 numbers",
    "identity": "an event id, a principal or a model is empty, reserved, too long or holds control characters",
    "time": "a time is not a moment between 1970 and 9999, or lies on the wrong side of another",
    "non-finite": "a number is NaN or infinite where no missing-feature mark allows it",
    "outputs": "the outputs are not what their kind says: probabilities, a class number or scores",
    "counts": "a count of queries is below one",
    "attribute": "an optional text is too long or holds control characters",
    "action": "an action, its parameter or its duration is absent, or present where it means nothing",
    "value": "a number is outside what it can mean",
}

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_ASCII_CONTROLS = bytes([*range(32), 127])


def plain(text: str, characters: int) -> bool:
    """Whether ``text`` is at most ``characters`` long and free of control characters; empty is plain."""
    return len(text) <= characters and (text.isprintable() or not _CONTROL.search(text))


def all_plain(texts: list[str], characters: int) -> bool:
    """Whether no text is empty and all are plain, at one look; False only calls for a look at each."""
    lengths = set(map(len, texts))
    joined = "".join(texts)
    if not joined.isascii():
        return 0 not in lengths and max(lengths) <= characters and joined.isprintable()
    data = joined.encode("ascii")
    clean = len(data.translate(None, _ASCII_CONTROLS)) == len(data)
    return clean and 0 not in lengths and max(lengths, default=1) <= characters


def names_one(name: str) -> bool:
    """Whether ``name`` can name a model or a principal; ``*`` is reserved for everyone."""
    return name not in {"", EVERYONE} and plain(name, NAME_CHARACTERS)


def is_time(seconds: float) -> bool:
    """Whether ``seconds`` since 1970 lies before the year 10000; NaN does not."""
    return 0.0 <= seconds < LATEST_TIME
