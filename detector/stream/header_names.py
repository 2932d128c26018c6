"""Batches that aiokafka cannot read, and that any client of librdkafka can write: it fails on the whole fetch, always.

A batch with a header name that is not UTF-8 is read once more by aiokafka's own Python reader, each wrong byte as
U+FFFD. One that would take all memory (``bombs``) is not decompressed: a record that says so stands in for each of its
own, and the first of these holds the batch's bytes as they came. All others are read as before.
``tests/stream/test_faust_internals.py`` fails when this no longer fits; the versions are pinned.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import MemoryRecords

from detector.contracts.codecs.limits import UNREAD_CONTENT_TYPE
from detector.runtime.odd_batches import LenientBytes, is_bomb

_LENGTH = struct.Struct(">8xi")
"""Of a batch, after its base offset: how many bytes follow."""

_HEAD = 61
"""Bytes of a batch before its records."""


_UNREAD = [("content-type", UNREAD_CONTENT_TYPE)]


class LenientRecords:
    """In place of ``MemoryRecords``: the batches of one fetch."""

    def __init__(self, data: bytes) -> None:
        self._records = MemoryRecords(data)
        self._data = data
        self._start = 0

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _Batch | None:
        batch = self._records.next_batch()
        if batch is None:
            return None
        start = self._start
        self._start = start + _LENGTH.size + _LENGTH.unpack_from(self._data, start)[0]
        return _Batch(batch, self._data, start, self._start)


class _Batch:
    """A batch, that of bytes ``start`` to ``end`` of ``data``."""

    def __init__(self, batch: Any, data: bytes, start: int, end: int) -> None:
        self._batch = batch
        self._place = data, start, end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        data, start, end = self._place
        if self._batch.compression_type and is_bomb(self._batch.compression_type, packed := data[start + _HEAD : end]):
            yield from _stand_ins(self._batch, packed)
            return
        read = 0
        try:
            for record in self._batch:
                yield record
                read += 1
        except UnicodeDecodeError:
            yield from islice(_read_leniently(bytes(data[start:end])), read, None)

    def __next__(self) -> Any:
        """As aiokafka reads a control record, which has no headers."""
        return next(self._batch)


def _stand_ins(batch: Any, data: bytes) -> Iterator[Any]:
    """A record in place of each of ``batch``, whose compressed records are ``data``."""
    value: bytes | None = data
    for offset in range(batch.base_offset, batch.next_offset):
        yield _DefaultRecordPy(offset, batch.max_timestamp, batch.timestamp_type, None, value, _UNREAD)
        value = None


def _read_leniently(data: bytes) -> Iterator[Any]:
    batch: Any = _DefaultRecordBatchPy(data)
    batch._maybe_uncompress()
    batch._buffer = LenientBytes(batch._buffer)
    return iter(batch)


def install() -> None:
    """Have aiokafka's consumers read so."""
    fetcher.MemoryRecords = LenientRecords
