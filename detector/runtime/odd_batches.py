"""Batches that kafka-python cannot read although any client of librdkafka can write them; it fails on each of them,
always.

A record with a header name that is not UTF-8 is read once more, each wrong byte as U+FFFD. A batch that would take all
memory (``bombs``) is not decompressed: its records are empty. ``tests/stream/test_faust_internals.py`` fails when
this no longer fits; the versions are pinned.
"""

from __future__ import annotations

from functools import cache
from typing import Any


class LenientBytes(bytearray):
    """Bytes of which any slice is some text."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return LenientBytes(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, "replace")


@cache
def install() -> None:
    """Makes kafka-python's consumers read this way, from the first call on."""
    from kafka.record.default_records import DefaultRecordBatch

    from detector.runtime.bombs import is_bomb

    read, decompress = DefaultRecordBatch._read_msg, DefaultRecordBatch._maybe_uncompress

    def read_leniently(batch: Any) -> Any:
        try:
            return read(batch)
        except UnicodeDecodeError:
            batch._buffer = LenientBytes(batch._buffer)
            return read(batch)

    def decompress_within_bounds(batch: Any) -> None:
        codec = 0 if batch._decompressed else batch.compression_type
        if codec and is_bomb(codec, bytes(batch._buffer[batch._pos :])):
            batch._buffer, batch._pos, batch._decompressed = _empty_records(batch.records_count), 0, True
        decompress(batch)

    DefaultRecordBatch._read_msg = read_leniently
    DefaultRecordBatch._maybe_uncompress = decompress_within_bounds


def _empty_records(count: int) -> bytearray:
    """Returns ``count`` records in the form of a batch, without key, value and headers."""
    from kafka.record.util import encode_varint

    found = bytearray()
    for offset in range(count):
        record = bytearray(b"\x00\x00")  # attributes, and no later than the first
        encode_varint(offset, record.append)
        record += b"\x01\x01\x00"  # no key, no value, no headers
        encode_varint(len(record), found.append)
        found += record
    return found
