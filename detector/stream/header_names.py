"""Header names that are not UTF-8, which any client of librdkafka can write: aiokafka fails on the whole fetch, always.

A batch with such a name is read once more by aiokafka's own Python reader, each wrong byte as U+FFFD. All others are
read as before. ``tests/stream/test_header_names.py`` fails when this no longer fits; the versions are pinned.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from detector.runtime.header_names import LenientBytes

_LENGTH = struct.Struct(">8xi")
"""Of a batch, after its base offset: how many bytes follow."""


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
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            data, start, end = self._place
            return iter(_read_leniently(bytes(data[start:end])))

    def __next__(self) -> Any:
        """As aiokafka reads a control record, which has no headers."""
        return next(self._batch)


def _read_leniently(data: bytes) -> list[Any]:
    batch: Any = _DefaultRecordBatchPy(data)
    batch._maybe_uncompress()
    batch._buffer = LenientBytes(batch._buffer)
    return list(batch)


def install() -> None:
    """Have aiokafka's consumers read so."""
    fetcher.MemoryRecords = LenientRecords
