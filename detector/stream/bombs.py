"""Batches that decompress to far more than anybody means to send: a megabyte of zstd may hold two gigabytes.

Kafka takes them, and whoever reads one needs memory for all of it at once. Such a batch is not decompressed: each of
its records is stood in for by one that says so, and the first of these holds the batch's bytes as they came.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import cramjam
import numpy as np
from aiokafka.record.default_records import _DefaultRecordPy
from numpy.typing import NDArray

from detector.contracts.codecs.limits import UNREAD_CONTENT_TYPE

MOST_BYTES = 67_108_864
"""So much a batch may decompress to: clients limit a batch, a megabyte by default, before they compress it."""

_CODECS = {1: (cramjam.gzip, 1_032), 3: (cramjam.lz4, 255), 4: (cramjam.zstd, 32_768)}
"""Module, and by how much it shrinks data at most. Snappy, 2, shrinks a megabyte from some twenty at most."""

_HEADERS = [("content-type", UNREAD_CONTENT_TYPE)]


def is_bomb(codec: int, data: bytes, most: int = MOST_BYTES) -> bool:
    """Whether ``data``, the records of a batch, decompress to over ``most`` bytes; ``codec`` as Kafka numbers it."""
    module, ratio = _CODECS.get(codec, (None, 1))
    if module is None or len(data) * ratio <= most:
        return False
    try:
        module.decompress_into(data, _room(most))
    except cramjam.DecompressionError:
        return True
    return False


def stand_ins(batch: Any, data: bytes) -> Iterator[Any]:
    """A record in place of each of ``batch``, whose compressed records are ``data``."""
    value: bytes | None = data
    for offset in range(batch.base_offset, batch.next_offset):
        yield _DefaultRecordPy(offset, batch.max_timestamp, batch.timestamp_type, None, value, _HEADERS)
        value = None


@cache
def _room(most: int) -> NDArray[np.uint8]:
    """Memory that the system only gives as far as it is written to."""
    return np.empty(most, np.uint8)
