"""Batches that decompress to far more than any client means to send: a megabyte of zstd may hold two gigabytes.

Kafka accepts them, and a reader needs memory for all of it at once. They are not decompressed.
"""

from __future__ import annotations

import mmap
from threading import local

import cramjam

MOST_BYTES = 67_108_864
"""The most bytes that a batch may decompress to: clients limit a batch, a megabyte by default, before they compress
it."""

_KEPT_BYTES = 1 << 20
"""Memory that is not given back after each batch: most batches need no more."""

_CODECS = {1: (cramjam.gzip, 1_032), 3: (cramjam.lz4, 255), 4: (cramjam.zstd, 32_768)}
"""The module, and the largest factor by which it shrinks data. Snappy, 2, shrinks at most some twenty megabytes to
one."""


def is_bomb(codec: int, data: bytes, most: int = MOST_BYTES) -> bool:
    """Returns whether ``data``, the records of a batch, decompress to over ``most`` bytes; ``codec`` as Kafka numbers
    it."""
    module, ratio = _CODECS.get(codec, (None, 1))
    if module is None or len(data) * ratio <= most:
        return False
    try:
        module.decompress_into(data, memoryview(_room.memory)[:most])
    except cramjam.DecompressionError:
        return True
    finally:
        _room.memory.madvise(mmap.MADV_DONTNEED, _KEPT_BYTES)
    return False


class _Room(local):
    """Memory of each thread, which the system only gives as far as it is written to."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, MOST_BYTES)


_room = _Room()
