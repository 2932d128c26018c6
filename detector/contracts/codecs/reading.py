"""What all decoders share: sizes, msgspec's errors in our words, the schema field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from detector.contracts.codecs.limits import RECORD_BYTES
from detector.contracts.errors import InvalidRecord

T = TypeVar("T")

_EXCERPT = 200
"""Characters of msgspec's message that are passed on: it quotes what it refuses, however long."""


@dataclass(slots=True)
class Envelope:
    """The one field that is read before anything else is believed."""

    schema: str | None = None


def check_size(value: bytes | None) -> bytes:
    """``value`` if it has between one and RECORD_BYTES bytes, else InvalidRecord."""
    if not value:
        raise InvalidRecord("empty", "the record has no value; send one query or one packed batch")
    if len(value) > RECORD_BYTES:
        raise InvalidRecord("too-large", f"the value has {len(value)} bytes; send at most {RECORD_BYTES}")
    return value


def read(value: bytes, decode: Callable[[bytes], T], envelope: Callable[[bytes], Envelope], schema: str) -> T:
    """``decode(value)``, with InvalidRecord for everything that can go wrong in it.

    ``envelope`` is asked only after a failure: a record of a later version is refused for its version and
    not for the shape that came with it.
    """
    import msgspec

    try:
        return decode(value)
    except msgspec.ValidationError as error:
        found = _schema_of(value, envelope)
        if found is not None:
            check_schema(found, schema)
        raise InvalidRecord("structure", str(error)[:_EXCERPT]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRecord("syntax", str(error)[:_EXCERPT]) from None


def by_layout(parsed: Iterable[T], layout: Callable[[T], object]) -> Iterable[list[T]]:
    """``parsed`` records that agree in ``layout``, and so can be joined, in their order."""
    groups: dict[object, list[T]] = {}
    for one in parsed:
        groups.setdefault(layout(one), []).append(one)
    return groups.values()


def _schema_of(value: bytes, envelope: Callable[[bytes], Envelope]) -> str | None:
    import msgspec

    try:
        return envelope(value).schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def check_schema(found: str | None, schema: str) -> None:
    """Raise InvalidRecord unless ``found`` is ``schema``."""
    if found != schema:
        raise InvalidRecord("schema", f"the schema field is {str(found)[:64]!r}; this version reads {schema!r}")
