"""Encodes and decodes the contract types. Imports only the standard library until a codec is called."""

from __future__ import annotations

from detector.contracts.codecs.json_queries import JSON_CONTENT_TYPE
from detector.contracts.codecs.limits import PACKED_BYTES, REASONS, RECORD_BYTES
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.codecs.records import HEARTBEAT_KEY, KILL_SWITCH_KEY, decision_key, decode, encode

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
    "encode",
    "encode_packed",
]
