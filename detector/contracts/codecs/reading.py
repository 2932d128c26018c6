"""Shared by all decoders: size limits, translation of msgspec's errors, and the schema field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from detector.contracts.codecs.limits import RECORD_BYTES
from detector.contracts.errors import InvalidRecord

T = TypeVar("T")

_EXCERPT = 200
"""Maximum number of characters of msgspec's message: it quotes the refused value in full."""


@dataclass(slots=True)
class Envelope:
    """The only field that is read before the record is validated."""

    schema: str | None = None


def check_size(value: bytes | None) -> bytes:
    """Returns ``value``. Raises InvalidRecord unless it has one to RECORD_BYTES bytes."""
    if not value:
        raise InvalidRecord("empty", "the record has no value; send one query or one packed batch")
    if len(value) > RECORD_BYTES:
        raise InvalidRecord("too-large", f"the value has {len(value)} bytes; send at most {RECORD_BYTES}")
    return value


def read(value: bytes, decode: Callable[[bytes], T], envelope: Callable[[bytes], Envelope], schema: str) -> T:
    """Returns ``decode(value)``. Raises InvalidRecord for every error in it.

    Calls ``envelope`` only after a failure, so that a record of a later version is refused because of its version, not
    its shape.
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
    """Returns groups of ``parsed`` records with the same ``layout``, which can be joined; each keeps the order."""
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
    """Raises InvalidRecord unless ``found`` is ``schema``."""
    if found != schema:
        raise InvalidRecord("schema", f"the schema field is {str(found)[:64]!r}; this version reads {schema!r}")
