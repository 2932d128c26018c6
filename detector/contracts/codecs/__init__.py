"""From bytes to the types of the contracts and back; the standard library alone until a codec is called."""

from __future__ import annotations

from detector.contracts.codecs.json_writing import encode_json_query
from detector.contracts.codecs.limits import PACKED_BYTES, REASONS, RECORD_BYTES
from detector.contracts.codecs.queries import decode_queries
from detector.contracts.codecs.queries_json import JSON_CONTENT_TYPE
from detector.contracts.codecs.queries_packed import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.codecs.records import KILL_SWITCH_KEY, decision_key, decode, encode

__all__ = [
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
