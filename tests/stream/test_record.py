"""State records: what is written can be read, and nothing else is taken for one."""

from __future__ import annotations

import msgspec
import pytest

from detector.contracts.errors import NewerStateLog, StateLogError
from detector.stream.record import FORMAT, Message, StateRecord, decode, encode

RECORD = StateRecord(
    kind="delta",
    fence=7,
    sequence=3,
    applied={"queries": 41, "commands": 0},
    origins={2: 17},
    source=(40, 41),
    rows=12,
    policy_time=1000.5,
    learn_until=5,
    published=(7, 2),
    outbox=(Message("alerts", None, b"k", b"v", (("h", b"x"),), 3.25), Message("decisions", 4, None, b"w")),
    sections={"engine": (1, b"\x00"), "policy": (2, b"")},
    owner="host:1",
    configuration="abc",
)


def test_a_record_is_read_as_it_was_written() -> None:
    assert decode(encode(RECORD)) == RECORD


def test_a_later_format_is_refused_with_what_to_do() -> None:
    fields = msgspec.msgpack.decode(encode(RECORD)) | {"format": FORMAT + 1}
    with pytest.raises(NewerStateLog, match="run the version that wrote it"):
        decode(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("value", [b"", b"garbage", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"a": 1})])
def test_bytes_that_are_no_record_are_an_error_of_the_log(value: bytes) -> None:
    with pytest.raises(StateLogError):
        decode(value)


def test_a_record_with_unknown_fields_is_an_error_of_the_log() -> None:
    fields = msgspec.msgpack.decode(encode(RECORD)) | {"surprise": 1}
    with pytest.raises(StateLogError, match="surprise"):
        decode(msgspec.msgpack.encode(fields))
