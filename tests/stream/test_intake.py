"""Source records taken in together come to what they come to one at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.batches import COLUMNS
from detector.contracts.codecs import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.codecs.json_queries import decode_json_run
from detector.contracts.codecs.packed_queries import decode_packed_run
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import BadRow, Count, QueryBatch
from detector.contracts.topics import Topics, partition_of
from detector.stream.intake import DecodedRecords, RecordDecoder
from detector.stream.source_records import ORIGIN, SourceRecord
from detector.stream.state_log import Message
from tests.contracts.batches import make_batch, optional_columns
from tests.contracts.malformed import KINDS, malformed
from tests.contracts.wire import decode_queries, encode_json_query

Row = tuple[Any, ...]

PACKED = {"content-type": PACKED_CONTENT_TYPE.encode()}
TOPICS = Topics("test")
MALFORMED = [bad for bad in islice(malformed(5), len(KINDS)) if len(bad.value) < 3_000]


def _record(batch: QueryBatch, counts: Sequence[Count] = (), source: str = "queries") -> SourceRecord:
    return SourceRecord(source, 0, 1000.0, None, encode_packed(batch, counts), PACKED)


def _rows(batch: QueryBatch) -> Iterator[Row]:
    """Each row of ``batch`` as plain values, numbers as their bytes; nothing is missing where there is no mask."""
    if batch.missing is None:
        batch = replace(batch, missing=np.zeros(batch.features.shape, np.bool_))
    whole = batch.model, batch.model_version, batch.output_kind, batch.dimension
    columns = [getattr(batch, name) for name in COLUMNS if name != "principal_index"]
    for row, principal in enumerate(batch.principal_index.tolist()):
        entries = [None if column is None else column[row] for column in columns]
        values = [entry.tobytes() if isinstance(entry, np.generic | np.ndarray) else entry for entry in entries]
        yield (*whole, batch.principals[principal], *values)


@dataclass
class Outcome:
    """The queries, row by row: one of ``rows`` starts with its record and its place there, a misrouted one
    with its new home."""

    rows: list[Row] = field(default_factory=list)
    counts: list[tuple[int, Count, int]] = field(default_factory=list)
    misrouted: list[Row] = field(default_factory=list)
    misrouted_counts: Counter[tuple[int, bytes, Count]] = field(default_factory=Counter)
    refused: dict[int, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, at: int, record: SourceRecord, partition: int, partitions: int) -> None:
        """Take in one record by itself, one row after another."""
        content_type = record.headers["content-type"].decode() if "content-type" in record.headers else None
        try:
            decoded = decode_queries(record.value, content_type, timestamp=record.timestamp)
        except InvalidRecord as error:
            self._unreadable(at, record, error.reason, partition, partitions)
            return
        rows = list(zip(decoded.rows.tolist(), _rows(decoded.batch), strict=True)) if decoded.batch else []
        homes = [partition_of(row[4], partitions) for _, row in rows]
        bad = [
            Count(row.model, row.principal, "unjudged", 1, record.timestamp, row.reason)
            for row in decoded.bad_rows
            if row.model
        ]
        told = [(partition_of(count.principal, partitions), count) for count in (*decoded.counts, *bad)]
        if record.source == "rekeyed" and {*homes, *(home for home, _ in told)} - {partition}:
            self.refused[at] = [(-1, "partition")]
            return
        self.refused[at] += [(bad.row, bad.reason) for bad in decoded.bad_rows]
        self.rows += [(at, number, *row) for (number, row), home in zip(rows, homes, strict=True) if home == partition]
        away = sorted((home, number, row) for (number, row), home in zip(rows, homes, strict=True) if home != partition)
        origin = f"{partition}:{record.offset}".encode()
        self.misrouted += [(home, origin, *row) for home, _, row in away]
        self.counts += [(at, count, len(self.rows)) for count in decoded.counts if _lives(count, partition, partitions)]
        for (home, count), number in Counter(told).items():
            if home != partition:
                queries = count.queries if count.kind == "dropped" else number
                self.misrouted_counts[home, origin, replace(count, queries=queries)] += 1

    def _unreadable(self, at: int, record: SourceRecord, reason: str, partition: int, partitions: int) -> None:
        """Refused, unless it says that it is of somebody who lives elsewhere: then it goes there as it came."""
        if reason == "content-type":
            self.refused[at] = [(-1, reason)]
            return
        run = (decode_packed_run if record.packed else decode_json_run)([record.value], [record.timestamp])
        ((_, bad),) = run.bad
        if not (bad.principal and bad.model) or _lives(bad, partition, partitions):
            self.refused[at] = [(-1, reason)]
        elif record.source == "rekeyed":
            self.refused[at] = [(-1, "partition")]
        else:
            home = partition_of(bad.principal, partitions)
            self.misrouted.append((home, f"{partition}:{record.offset}".encode(), record.value))


def _lives(one: Count | BadRow, partition: int, partitions: int) -> bool:
    return partition_of(one.principal, partitions) == partition


def _one_at_a_time(records: Sequence[SourceRecord], partition: int, partitions: int) -> Outcome:
    outcome = Outcome()
    for at, record in enumerate(records):
        outcome.add(at, record, partition, partitions)
    outcome.refused = {at: bad for at, bad in outcome.refused.items() if bad}
    return outcome


def _sent_on(message: Message) -> tuple[Iterator[Row], list[Any]]:
    headers = dict(message.headers)
    content_type = headers["content-type"].decode() if "content-type" in headers else None
    assert message.topic == TOPICS.rekeyed
    to = message.partition, headers[ORIGIN]
    try:
        decoded = decode_queries(message.value, content_type, timestamp=message.timestamp or 0.0)
    except InvalidRecord:
        return iter([(*to, message.value)]), []
    rows = _rows(decoded.batch) if decoded.batch is not None else ()
    return ((*to, *row) for row in rows), [(*to, count) for count in decoded.counts]


def _together(records: Sequence[SourceRecord], partition: int, partitions: int) -> Outcome:
    decoded = RecordDecoder(partition, partitions, TOPICS).decode(records)
    rows = [row for piece in decoded.pieces for row in _rows(piece)]
    numbered = zip(decoded.record_of.tolist(), decoded.row_of.tolist(), rows, strict=True)
    sent = [_sent_on(message) for message in decoded.misrouted]
    misrouted = [row for rows, _ in sent for row in rows]
    misrouted_counts = Counter(count for _, counts in sent for count in counts)
    refused = {at: [(bad.row, bad.reason) for bad in rows] for at, rows in decoded.rejected.items()}
    return Outcome(
        [(at, number, *row) for at, number, row in numbered], decoded.reported, misrouted, misrouted_counts, refused
    )


def _spoil(batch: QueryBatch, row: int, fault: str) -> None:
    match fault:
        case "features":
            batch.features[row, -1] = np.nan
        case "outputs":
            batch.outputs[row] = [np.inf, -np.inf, -1.0]
        case "sum":
            batch.outputs[row] *= 3
        case "event id":
            batch.event_ids[row] = "\n"
        case "time":
            batch.occurred_at[row] = -1.0


FAULTS = st.sampled_from([None] * 8 + ["features", "outputs", "sum", "event id", "time"])
NAMES = ["ana", "bo", "çelik", "dag", "*"]


@st.composite
def batches(draw: st.DrawFn, fewest: int) -> QueryBatch:
    """Up to three rows of one of several layouts, some rows bad."""
    rows, dimension = draw(st.integers(fewest, 3)), draw(st.sampled_from([3, 4]))
    changes: dict[str, Any] = {"model": draw(st.sampled_from(["digits", "faces"]))}
    if draw(st.booleans()):
        columns = optional_columns(rows, dimension)
        changes |= {name: columns[name] for name in draw(st.sets(st.sampled_from(sorted(columns)), max_size=8))}
    who = draw(st.lists(st.integers(0, len(NAMES) - 1), min_size=rows, max_size=rows))
    changes |= {"principals": NAMES, "principal_index": np.array(who, dtype=np.int32)}
    batch = make_batch(rows=rows, dimension=dimension, seed=draw(st.integers(0, 99)), **changes)
    for row in range(rows):
        _spoil(batch, row, draw(FAULTS) or "")
    return batch


@st.composite
def packed(draw: st.DrawFn) -> SourceRecord:
    batch = draw(batches(0))
    counted = draw(st.lists(st.sampled_from(NAMES[:4]), max_size=2))
    counts = [Count(batch.model, name, "dropped", at + 1, 3.0) for at, name in enumerate(counted)]
    return _record(batch, counts, draw(st.sampled_from(["queries", "rekeyed"])))


@st.composite
def single(draw: st.DrawFn) -> SourceRecord:
    value = encode_json_query(draw(batches(1)))
    return SourceRecord(draw(st.sampled_from(["queries", "rekeyed"])), 0, 1000.0, b"key", value)


@st.composite
def bad(draw: st.DrawFn) -> SourceRecord:
    one = draw(st.sampled_from(MALFORMED))
    headers = {} if one.content_type is None else {"content-type": one.content_type.encode()}
    return SourceRecord("queries", 0, 1000.0, one.key, one.value, headers)


def _at(record: SourceRecord, offset: int) -> SourceRecord:
    origin = {ORIGIN: b"0:%d" % offset} if record.source == "rekeyed" else {}
    return replace(record, offset=offset, headers={**record.headers, **origin})


@settings(max_examples=200, deadline=None)
@given(st.lists(packed() | packed() | single() | bad(), max_size=12), st.sampled_from([(0, 1), (0, 3), (2, 3)]))
def test_records_together_come_to_what_they_come_to_one_at_a_time(
    drawn: list[SourceRecord], place: tuple[int, int]
) -> None:
    records = [_at(record, offset) for offset, record in enumerate(drawn)]
    assert _together(records, *place) == _one_at_a_time(records, *place)


@pytest.mark.parametrize("name", sorted(optional_columns(1, 4).keys() - {"missing"}))
def test_records_with_and_without_an_optional_column_are_not_joined(name: str) -> None:
    column = {name: optional_columns(2, 4)[name]}
    records = [_record(make_batch(rows=2, seed=seed, **(column if seed % 2 else {}))) for seed in range(4)]
    assert _together(records, 0, 1) == _one_at_a_time(records, 0, 1)
    assert len(_decode(*records).pieces) == 4


def test_missing_features_here_and_there_do_not_break_a_run_into_pieces() -> None:
    batches = [make_batch(rows=2, seed=seed) for seed in range(6)]
    for batch in batches[::2]:
        batch.features[1, 0] = np.nan
    given = make_batch(rows=2, seed=6, missing=np.eye(2, 4, dtype=np.bool_))
    records = [_record(batch) for batch in [*batches, given]]
    assert _together(records, 0, 1) == _one_at_a_time(records, 0, 1)
    (piece,) = _decode(*records).pieces
    assert piece.missing is not None
    assert np.flatnonzero(piece.missing.any(axis=1)).tolist() == [1, 5, 9, 12, 13]


def test_what_was_replaced_is_counted() -> None:
    odd = make_batch(rows=3, event_ids=["\n", "", "fine"], occurred_at=np.array([np.nan, 1.0, 2.0]))
    odd.features[2, 0] = np.inf
    query = encode_json_query(make_batch(rows=1)).replace(b'"ana"', b'"*"').replace(b'"bo"', b'"*"')
    decoded = _decode(_record(odd), SourceRecord("queries", 1, 1000.0, None, query.replace("çelik".encode(), b"*"), {}))
    assert decoded.repaired == {"event_id": 2, "time": 1, "clipped": 1, "principal": 1}
    assert len(decoded) == 4 and not decoded.rejected


def _decode(*records: SourceRecord) -> DecodedRecords:
    return RecordDecoder(0, 1, TOPICS).decode(records)


def test_records_of_one_layout_make_one_piece() -> None:
    decoded = _decode(*(_record(make_batch(rows=1 + seed % 2, seed=seed)) for seed in range(9)))
    assert [len(piece) for piece in decoded.pieces] == [13]
    assert decoded.record_of.tolist() == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8]
    assert decoded.row_of.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0]


def test_models_in_turn_stay_in_log_order() -> None:
    models = ["digits", "faces", "faces", "digits", "faces"]
    decoded = _decode(*(_record(make_batch(rows=2, seed=at, model=model)) for at, model in enumerate(models)))
    assert [(piece.model, len(piece)) for piece in decoded.pieces] == [
        ("digits", 2),
        ("faces", 4),
        ("digits", 2),
        ("faces", 2),
    ]
    assert decoded.record_of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("spoiled", [b"", b"\xc1", encode_packed(make_batch(rows=2))[:-9]])
def test_a_bad_record_leaves_its_neighbours_alone(spoiled: bytes) -> None:
    good = _record(make_batch(rows=2))
    decoded = _decode(good, replace(good, value=spoiled), good)
    assert list(decoded.rejected) == [1]
    assert decoded.record_of.tolist() == [0, 0, 2, 2]


def test_a_count_stands_after_the_rows_of_its_record() -> None:
    counts = [Count("digits", "ana", "dropped", 1, 3.0)]
    alone = make_batch(rows=0, dimension=0, classes=0)
    records = [_record(make_batch(rows=2), counts), _record(alone, counts), _record(make_batch(rows=1), counts)]
    assert [(at, row) for at, _, row in _decode(*records).reported] == [(0, 2), (1, 2), (2, 3)]


def test_whether_outputs_add_up_does_not_depend_on_the_neighbours() -> None:
    rng = np.random.default_rng(3)
    outputs = rng.random((300, 30)) + 0.1
    outputs *= 1.05 / outputs.sum(axis=1, keepdims=True)
    rows = [make_batch(rows=1, seed=seed, outputs=row[None].astype(np.float32)) for seed, row in enumerate(outputs)]
    records = [_record(row) for row in rows]
    alone = [at for at, record in enumerate(records) if _decode(record).rejected]
    assert 0 < len(alone) < len(rows)
    assert sorted(_decode(*records).rejected) == alone
