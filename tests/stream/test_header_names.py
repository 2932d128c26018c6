"""Records whose header names are not UTF-8 are read, with their neighbours, whatever the compression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from kafka.record import MemoryRecords as KafkaPythonRecords

from detector.contracts.codecs.limits import UNREAD_CONTENT_TYPE
from detector.runtime import odd_batches
from detector.runtime.odd_batches import MOST_BYTES, is_bomb
from detector.stream.header_names import LenientRecords

_GOOD, _BAD = b"HHHH", b"\xff\xfeHH"


def _batch(records: int, compression: int = 0, bad: bool = True, base: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for offset in range(records):
        headers = [("a", None), (_GOOD.decode(), b"x" * offset)]
        builder.append(offset, timestamp=1000 + offset, key=b"k", value=b"v%d" % offset, headers=headers)
    return bytes(builder.build()).replace(_GOOD, _BAD) if bad else bytes(builder.build())


def _read_by_kafka_python(data: bytes) -> list[Any]:
    odd_batches.install()
    records, found = KafkaPythonRecords(data), []
    while (batch := records.next_batch()) is not None:
        found += [(record.offset, record.timestamp, record.key, record.value, *record.headers) for record in batch]
    return found


def _read(data: bytes) -> list[Any]:
    records, found = LenientRecords(data), []
    while records.has_next():
        batch = records.next_batch()
        assert batch is not None
        assert batch.is_control_batch is False
        found += [(record.offset, record.timestamp, record.key, record.value, *record.headers) for record in batch]
    assert records.next_batch() is None
    return found


@pytest.mark.parametrize("read", [_read, _read_by_kafka_python])
def test_a_name_that_is_no_text_is_read_as_what_can_be_shown_of_it(read: Callable[[bytes], list[Any]]) -> None:
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(_batch(1)).next_batch())
    found = read(_batch(3))
    assert found == [(at, 1000 + at, b"k", b"v%d" % at, ("a", None), ("\ufffd\ufffdHH", b"x" * at)) for at in range(3)]


def test_batches_before_and_after_are_read_as_ever() -> None:
    data = _batch(2, bad=False) + _batch(3) + _batch(1, bad=False)
    assert [row[-1][0] for row in _read(data)] == ["HHHH", "HHHH", *["\ufffd\ufffdHH"] * 3, "HHHH"]
    plain, ours = MemoryRecords(data), LenientRecords(data)
    assert plain.size_in_bytes() == ours.size_in_bytes()


def test_the_marker_that_ends_a_transaction_is_read_as_aiokafka_reads_it() -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=1,
        producer_id=7,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1_000,
    )
    builder.append(0, timestamp=1000, key=b"\x00\x00\x00\x00", value=b"\x00\x00\x00\x00\x00\x00", headers=[])
    batch = LenientRecords(bytes(builder.build())).next_batch()
    assert batch is not None
    assert next(batch).key == b"\x00\x00\x00\x00"


@pytest.mark.parametrize("codec", [1, 3, 4])
def test_a_batch_that_would_take_all_memory_is_not_read_and_its_records_say_so(codec: int) -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=MOST_BYTES * 2,
    )
    for offset in range(3):
        builder.append(offset, timestamp=1000 + offset, key=b"k", value=bytes(MOST_BYTES // 3), headers=[])
    data = bytes(builder.build())
    unread = ("content-type", UNREAD_CONTENT_TYPE)
    assert _read(data) == [(at, 1002, None, None if at else data[61:], unread) for at in range(3)]
    assert _read_by_kafka_python(data) == [(at, 1000, None, None) for at in range(3)]
    assert _read(_batch(3, compression=codec, bad=False)) == _read(_batch(3, bad=False))


@pytest.mark.parametrize(("codec", "name"), [(1, "gzip"), (3, "lz4"), (4, "zstd")])
def test_what_just_fits_is_read(codec: int, name: str) -> None:
    packed = bytes(getattr(cramjam, name).compress(bytes(10_000_000)))
    assert not is_bomb(codec, packed, 10_000_000)
    assert is_bomb(codec, packed, 9_999_999)
    assert not is_bomb(0, packed, 1)
