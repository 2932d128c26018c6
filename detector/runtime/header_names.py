"""Header names that are not UTF-8, which any client of librdkafka can write: kafka-python fails on each such record.

Where it fails, it reads the record once more, each wrong byte as U+FFFD. ``tests/stream/test_header_names.py`` fails
when this no longer fits; the versions are pinned.
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
    """Have kafka-python's consumers read so, from the first call on."""
    from kafka.record.default_records import DefaultRecordBatch

    read = DefaultRecordBatch._read_msg

    def read_leniently(batch: Any) -> Any:
        try:
            return read(batch)
        except UnicodeDecodeError:
            batch._buffer = LenientBytes(batch._buffer)
            return read(batch)

    DefaultRecordBatch._read_msg = read_leniently
