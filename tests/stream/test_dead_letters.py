"""Dead letters and all other messages fit their topics; a letter holds only the bad rows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.codecs import encode_packed
from detector.contracts.codecs.limits import UNREAD_CONTENT_TYPE
from detector.contracts.codecs.packed_queries import decode_packed_run, excerpt
from detector.contracts.codecs.records import LETTER_HEADER, decode
from detector.contracts.findings import DeadLetter
from detector.contracts.queries import BadRow, Count
from detector.contracts.topics import partition_of
from detector.runtime.metric_defs import DEAD_LETTERS, DEAD_LETTERS_NOT_KEPT, QUERIES, QUERIES_REPEATED
from detector.runtime.sections import KafkaSettings
from detector.stream.commit_unit import CommitUnit
from detector.stream.dead_letters import DeadLetters, LetterLimits, cut_letter
from detector.stream.intake import POISON, RecordDecoder
from detector.stream.partition import Partition
from detector.stream.source_records import SourceRecord
from detector.stream.state_log import Message
from detector.stream.topics import letter_bytes, shapes
from tests.contracts.batches import make_batch
from tests.contracts.wire import decode_queries, encode_json_query
from tests.stream.world import PACKED, TOPICS, World, apply, figures, new_partition

LIMITS = LetterLimits()


def _live(number: int = 0, partitions: int = 1) -> Partition:
    partition = new_partition(number, partitions)
    partition.cursor.live, partition.cursor.fence = True, 0
    return partition


def _described(letter: Message) -> DeadLetter:
    return decode(DeadLetter, dict(letter.headers)[LETTER_HEADER])


def _customers(rows: int, bad: list[int]) -> SourceRecord:
    names = [f"customer-{at}" for at in range(rows)]
    batch = make_batch(
        rows=rows,
        event_ids=[f"event-{at}" for at in range(rows)],
        principals=names,
        principal_index=np.arange(rows, dtype=np.int32),
    )
    batch.outputs[bad] = np.inf
    return SourceRecord("queries", 0, 1000.0, None, encode_packed(batch, ()), PACKED)


def test_the_letter_of_a_bad_row_holds_that_row_and_names_nobody_else() -> None:
    record = _customers(3000, [17, 2999])
    (letter,) = apply(_live(), [record]).before
    assert len(letter.value) < 2_000
    assert b"customer-17" in letter.value
    assert b"customer-2999" in letter.value
    assert letter.value.count(b"customer-") == 2
    described = _described(letter)
    assert (described.row, described.rows, described.size) == (None, (17, 2999), len(record.value or b""))
    assert described.digest == hashlib.blake2b(record.value or b"", digest_size=16).hexdigest()


def test_the_bad_row_is_kept_bit_for_bit() -> None:
    batch = make_batch(rows=3, features=np.array([[1, 2], [np.nan, -0.0], [3, 4]], np.float32), dimension=2)
    again = excerpt(encode_packed(batch), [1])
    assert batch.features[1].tobytes() in again
    assert batch.outputs[1].tobytes() in again
    assert batch.features[0].tobytes() not in again


def test_a_letter_because_of_a_count_holds_that_count_alone() -> None:
    home = next(name for name in map(str, range(99)) if partition_of(name, 2) == 0)
    away = next(name for name in map(str, range(99)) if partition_of(name, 2) == 1)
    batch = make_batch(rows=2, principals=[home], principal_index=np.zeros(2, np.int32))
    counts = [Count(batch.model, name, "dropped", 5, 3.0) for name in (home, away)]
    record = SourceRecord("queries", 0, 1000.0, None, encode_packed(batch, counts), PACKED)
    step = apply(_live(0, 2), [record])
    (letter,) = step.before
    held = decode_queries(letter.value, PACKED["content-type"].decode(), timestamp=0.0)
    assert (held.batch, held.counts) == (None, [counts[1]])


def test_what_was_not_read_because_it_would_take_all_memory_is_too_large() -> None:
    record = SourceRecord("queries", 0, 1000.0, None, b"compressed", {"content-type": UNREAD_CONTENT_TYPE})
    (letter,) = apply(_live(), [record]).before
    assert (_described(letter).reason, letter.value) == ("too-large", b"compressed")


@pytest.mark.parametrize("name", ["*", "", "m" * 300, "a\x00b"])
def test_a_packed_record_of_a_model_that_cannot_be_written_is_kept_as_it_came(name: str) -> None:
    counts = [Count("digits", "bo", "dropped", 5, 3.0)]
    value = msgspec.msgpack.encode(msgspec.msgpack.decode(encode_packed(make_batch(rows=3), counts)) | {"model": name})
    (letter,) = apply(_live(), [SourceRecord("queries", 0, 1000.0, None, value, PACKED)]).before
    assert letter.value == value
    assert _described(letter).reason == "identity"


def test_a_record_that_is_all_bad_is_kept_whole_and_cut_where_it_must_be() -> None:
    value = json.dumps({"features": [0.0] * 700_000}).encode()
    record = SourceRecord("queries", 0, 1.0, b"k", value, {})
    (letter,) = apply(_live(), [record]).before
    assert letter.nbytes <= LIMITS.largest
    assert value.startswith(letter.value)
    assert (_described(letter).size, _described(letter).rows) == (len(value), ())
    headers = dict(letter.headers)
    assert headers["weirguard.original-bytes"] == str(len(value)).encode()
    assert headers["weirguard.original-blake2b"] == hashlib.blake2b(value, digest_size=16).hexdigest().encode()


@given(
    value=st.sampled_from([0, 10, 70_000, 3_000_000]),
    key=st.sampled_from([None, 0, 50, 2_000_000]),
    headers=st.lists(st.tuples(st.integers(0, 3_000_000), st.sampled_from([0, 5, 100_000, 3_000_000])), max_size=3),
    largest=st.integers(65_536, 2_000_000),
    detail=st.sampled_from(["plain", "\x01" * 100_000, "\ud800" * 5_000, "\U0001f600" * 5_000]),
    rows=st.integers(1, 3_000),
)
@settings(max_examples=60, deadline=None)
def test_any_letter_fits(
    value: int, key: int | None, headers: list[tuple[int, int]], largest: int, detail: str, rows: int
) -> None:
    own = {"h" * size + str(at): b"v" * data for at, (size, data) in enumerate(headers)}
    record = SourceRecord("queries", 3, 1.0, None if key is None else b"k" * key, b"x" * value, own)
    bad = {0: [BadRow(-1, "syntax", detail)] * rows}
    (letter,), _ = DeadLetters(TOPICS, 0, LetterLimits(largest)).write([record], bad, 0.0)
    assert letter.nbytes <= largest
    assert _described(letter).size == value


def test_a_bad_row_that_is_too_large_for_a_letter_is_cut_and_many_are_fewer() -> None:
    batch = make_batch(rows=50, dimension=4_000)
    batch.outputs[:] = np.nan
    record = SourceRecord("queries", 0, 1.0, None, encode_packed(batch), PACKED)
    rejected = {0: [BadRow(at, "outputs", "nan") for at in range(50)]}
    (letter,), not_kept = DeadLetters(TOPICS, 0, LetterLimits(200_000)).write([record], rejected, 0.0)
    held = decode_queries(letter.value, PACKED["content-type"].decode(), timestamp=0.0)
    assert [bad.row for bad in held.bad_rows] == list(range(len(_described(letter).rows)))
    assert 1 < len(held.bad_rows) < 50
    assert not_kept == {"outputs": 50 - len(held.bad_rows)}
    wide = SourceRecord("queries", 0, 1.0, None, encode_packed(make_batch(rows=1, dimension=30_000)), PACKED)
    rejected = {0: [BadRow(0, "outputs", "nan")]}
    (cut,), _ = DeadLetters(TOPICS, 0, LetterLimits(65_536)).write([wide], rejected, 0.0)
    assert cut.nbytes <= 65_536


def _write(box: DeadLetters, letters: int, now: float, reason: str = "syntax") -> tuple[list[Message], Counter[str]]:
    records = [SourceRecord("queries", at, now, None, b"x") for at in range(letters)]
    return box.write(records, {at: [BadRow(-1, reason, "")] for at in range(letters)}, now)


def test_beyond_the_limit_of_a_reason_and_minute_a_sample_is_kept_and_all_are_counted() -> None:
    box = DeadLetters(TOPICS, 0, LetterLimits(per_minute=10))
    flood, not_kept = _write(box, 1_000, 30.0)
    assert [_described(letter).offset for letter in flood] == [*range(10), 19, 39, 79, 159, 319, 639]
    assert not_kept == {"syntax": 1_000 - len(flood)}
    assert len(_write(box, 5, 31.0, "empty")[0]) == 5
    assert len(_write(box, 12, 60.0)[0]) == 10


def test_a_step_counts_what_no_letter_holds() -> None:
    partition = _live()
    partition._letters = DeadLetters(TOPICS, 0, LetterLimits(per_minute=2))
    step: CommitUnit = apply(partition, [SourceRecord("queries", at, 1.0, None, b"{") for at in range(5)])
    assert (figures(step, DEAD_LETTERS), figures(step, DEAD_LETTERS_NOT_KEPT)) == ({("syntax",): 5}, {("syntax",): 2})
    assert len(step.before) == 3


def test_a_letter_does_not_take_over_headers_that_look_like_ours() -> None:
    headers = {LETTER_HEADER: b"forged", "__connect.errors.topic": b"forged", "trace": b"t"}
    (letter,) = apply(_live(), [SourceRecord("queries", 0, 1.0, b"k", b"{", headers)]).before
    assert [name for name, _ in letter.headers].count(LETTER_HEADER) == 1
    assert dict(letter.headers)["trace"] == b"t"
    assert b"forged" not in dict(letter.headers).values()


def test_cutting_a_letter_leaves_its_headers() -> None:
    letter = Message("dead", None, b"k", b"v" * 1000, (("h", b"x"),))
    cut = cut_letter(letter, letter.nbytes - 400)
    assert (len(cut.value), cut.headers) == (600, letter.headers)
    assert cut_letter(letter, 1).value == b""
    assert cut_letter(letter, letter.nbytes) is letter


# -- a decoder that fails ----------------------------------------------------------------------------------------------


def test_a_record_that_the_decoder_fails_on_is_poison_at_once_and_its_neighbours_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from detector.stream import intake

    def failing(values: list[bytes | None], timestamps: list[float | None]) -> Any:
        if any(b"marked" in (value or b"") for value in values):
            raise RecursionError("deep")
        return decode_packed_run(values, timestamps)

    monkeypatch.setattr(intake, "decode_packed_run", failing)
    ids = [["a", "b"], ["marked", "c"], ["d", "e"]]
    records = [
        SourceRecord("queries", at, 1.0, None, encode_packed(make_batch(rows=2, event_ids=own)), PACKED)
        for at, own in enumerate(ids)
    ]
    step = apply(_live(), records)
    assert figures(step, DEAD_LETTERS) == {(POISON,): 1}
    assert sum(step.counts[metric, ("digits",)] for metric in (QUERIES, QUERIES_REPEATED)) == 4
    (letter,) = step.before
    assert (letter.value, _described(letter).offset) == (records[1].value, 1)
    assert "RecursionError" in _described(letter).message


def test_a_record_may_be_passed_by_unread() -> None:
    world = World([])
    owner = world.take_over()
    step = owner.skip(SourceRecord("queries", 0, 5.0, None, b"whatever"), "it ended two workers")
    world.append_step(step)
    assert (owner.applied, figures(step, DEAD_LETTERS)) == ({"queries": 0}, {(POISON,): 1})
    assert [_described(letter).reason for letter in step.before] == [POISON]
    assert world.take_over().applied == {"queries": 0}


# -- re-keyed records ----------------------------------------------------------------------------------------------


def _rekeyed_bytes() -> int:
    kafka = KafkaSettings(query_record_bytes=16_384)
    (shape,) = [shape for shape in shapes(kafka) if shape.name == kafka.topics.rekeyed]
    return int(shape.config["max.message.bytes"])


@pytest.mark.parametrize("size", [900_000, 1_048_000])
def test_a_misrouted_record_of_any_size_that_is_read_fits_the_rekeyed_topic_and_is_read_there(size: int) -> None:
    away = next(name for name in map(str, range(99)) if partition_of(name, 2) == 1)
    rows = 100
    dimension = (size // rows - 60) // 4
    batch = make_batch(rows=rows, dimension=dimension, principals=[away], principal_index=np.zeros(rows, np.int32))
    record = SourceRecord("queries", 0, 1.0, None, encode_packed(batch, (), 1_048_576), PACKED)
    assert len(record.value or b"") > size * 0.98
    decoded = RecordDecoder(0, 2, TOPICS).decode([record])
    (message,) = decoded.misrouted
    assert (decoded.rejected, message.nbytes <= _rekeyed_bytes()) == ({}, True)
    again = SourceRecord("rekeyed", 0, 1.0, None, message.value, dict(message.headers))
    assert len(RecordDecoder(1, 2, TOPICS).decode([again])) == rows


def test_a_misrouted_record_leaves_the_names_of_others_and_huge_headers_behind() -> None:
    home, away = (next(name for name in map(str, range(99)) if partition_of(name, 2) == at) for at in (0, 1))
    batch = make_batch(rows=2, principals=[home, away], principal_index=np.array([0, 1], np.int32))
    packed = SourceRecord("queries", 0, 1.0, None, encode_packed(batch), PACKED)
    (message,) = RecordDecoder(0, 2, TOPICS).decode([packed]).misrouted
    assert decode_queries(message.value, PACKED["content-type"].decode(), timestamp=0.0).batch.principals == [away]  # type: ignore[union-attr]
    headers = {"big": b"x" * 3_000_000, "trace": b"t"}
    single = SourceRecord("queries", 0, 1.0, b"k" * 3_000_000, encode_json_query(batch, 1), headers)
    (message,) = RecordDecoder(0, 2, TOPICS).decode([single]).misrouted
    assert message.nbytes <= _rekeyed_bytes()
    assert dict(message.headers)["trace"] == b"t"


def test_the_topic_takes_what_letters_may_have() -> None:
    kafka = KafkaSettings()
    (shape,) = [shape for shape in shapes(kafka) if shape.name == kafka.topics.dead_letters]
    assert int(shape.config["max.message.bytes"]) == letter_bytes(kafka) >= 65_536
