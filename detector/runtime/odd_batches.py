"""Reads batches that clients of librdkafka can write and on which kafka-python always fails.

A record with a header name that is not UTF-8 is read once more, each wrong byte as U+FFFD. A batch that decompresses to
far more than a client sends is not decompressed: its records are empty. A megabyte of zstd may hold two gigabytes, and
a reader needs memory for all of it at once. ``tests/stream/test_faust_internals.py`` fails when this no longer fits;
the versions are pinned.
"""

from __future__ import annotations

import mmap
from functools import cache
from threading import local
from typing import Any

import cramjam

from detector.runtime.sections import KafkaSettings

MOST_BYTES = 67_108_864
"""The most bytes that a batch may decompress to: clients limit a batch, a megabyte by default, before they compress
it."""

_KEPT_BYTES = 1 << 20
"""Memory that is not given back after each batch: most batches need no more."""

_CODECS = {1: (cramjam.gzip, 1_032), 3: (cramjam.lz4, 255), 4: (cramjam.zstd, 32_768)}
"""The module, and the largest factor by which it shrinks data. Snappy, 2, shrinks at most some twenty megabytes to
one."""


class LenientBytes(bytearray):
    """Bytes whose slices always decode to text."""

    def __getitem__(self, index: Any) -> Any:
        value = super().__getitem__(index)
        return LenientBytes(value) if isinstance(index, slice) else value

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, "replace")


def new_consumer(kafka: KafkaSettings, **options: Any) -> Any:
    """Returns a KafkaConsumer without a group, for committed records alone, that reads such batches. ``options``:
    further consumer options. Raises KafkaError."""
    from kafka import KafkaConsumer

    install()
    return KafkaConsumer(
        **kafka.client_arguments(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        **options,
    )


@cache
def install() -> None:
    """Makes kafka-python's consumers read such batches, from the first call on."""
    from kafka.record.default_records import DefaultRecordBatch

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

    records = bytearray()
    for offset in range(count):
        record = bytearray(b"\x00\x00")  # attributes, and no later than the first
        encode_varint(offset, record.append)
        record += b"\x01\x01\x00"  # no key, no value, no headers
        encode_varint(len(record), records.append)
        records += record
    return records


def is_bomb(codec: int, data: bytes, most: int = MOST_BYTES) -> bool:
    """Returns whether ``data``, the records of a batch, decompress to over ``most`` bytes; ``codec`` as Kafka numbers
    it."""
    module, ratio = _CODECS.get(codec, (None, 1))
    if module is None or len(data) * ratio <= most:
        return False
    try:
        module.decompress_into(data, memoryview(_thread_buffer.memory)[:most])
    except cramjam.DecompressionError:
        return True
    finally:
        _thread_buffer.memory.madvise(mmap.MADV_DONTNEED, _KEPT_BYTES)
    return False


class _ThreadBuffer(local):
    """Memory of each thread, which the system only gives as far as it is written to."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, MOST_BYTES)


_thread_buffer = _ThreadBuffer()
