"""Encodes and decodes the contract types. Imports only the standard library until a codec is called."""

from __future__ import annotations

from detector.contracts.codecs.json_queries import JSON_CONTENT_TYPE, decode_json, encode_json_query
from detector.contracts.codecs.limits import PACKED_BYTES, REASONS, RECORD_BYTES
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, decode_packed, encode_packed
from detector.contracts.codecs.records import HEARTBEAT_KEY, KILL_SWITCH_KEY, decision_key, decode, encode
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import DecodedQueries

__all__ = [
    "HEARTBEAT_KEY",
    "JSON_CONTENT_TYPE",
    "KILL_SWITCH_KEY",
    "PACKED_BYTES",
    "PACKED_CONTENT_TYPE",
    "REASONS",
    "RECORD_BYTES",
    "decision_key",
    "decode",
    "decode_queries",
    "encode",
    "encode_json_query",
    "encode_packed",
]


def decode_queries(value: bytes | None, content_type: str | None, *, timestamp: float) -> DecodedQueries:
    """Returns the queries in the ``value`` of a record.

    ``content_type``: the header of the record; JSON if absent. ``timestamp``: that of the record, seconds UTC; it
    replaces an absent or invalid ``occurred_at``. Raises only InvalidRecord, if the whole record is unusable; bad rows
    of a packed batch are listed.
    """
    media_type = JSON_CONTENT_TYPE if content_type is None else content_type.partition(";")[0].strip().lower()
    if media_type == PACKED_CONTENT_TYPE:
        return decode_packed(value, timestamp=timestamp)
    if media_type != JSON_CONTENT_TYPE:
        raise InvalidRecord("content-type", f"{media_type[:64]!r} is neither JSON nor {PACKED_CONTENT_TYPE}")
    return decode_json(value, timestamp=timestamp)
