"""Records whose header names are not UTF-8 are read, with their neighbours, whatever the compression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from kafka.record import MemoryRecords as KafkaPythonRecords

from detector.runtime import header_names
from detector.stream.header_names import LenientRecords

_GOOD, _BAD = b"HHHH", b"\xff\xfeHH"


def _batch(records: int, compression: int = 0, bad: bool = True, base: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
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
    header_names.install()
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
