"""Decodes source records into the queries of one partition, and finds misrouted queries and bad rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import inf

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import concatenate, empty_batch, in_log_order, select, take
from detector.contracts.codecs.json_queries import JSON_CONTENT_TYPE, decode_json_run
from detector.contracts.codecs.limits import RECORD_BYTES, UNREAD_CONTENT_TYPE
from detector.contracts.codecs.packed_queries import (
    PACKED_CONTENT_TYPE,
    decode_packed,
    decode_packed_run,
    encode_packed,
)
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import is_name
from detector.contracts.queries import BadRow, Count, DecodedQueries, DecodedRun, Part, QueryBatch
from detector.contracts.topics import Topics, partition_of
from detector.policy.activity import Counted
from detector.stream.detector import DetectionInput
from detector.stream.source_records import CONTENT_TYPE, ORIGIN, SourceRecord, is_repeated
from detector.stream.state_log import Message, headers_within

POISON = "poison"
"""The reason of a record that ends, or would end, every worker that processes it."""

_HEADER_BYTES = 16_384
_ERROR_CHARACTERS = 1_000
_PACKED = PACKED_CONTENT_TYPE.encode()
_KNOWN = (_PACKED, JSON_CONTENT_TYPE.encode(), None)


@dataclass(slots=True)
class DecodedRecords(DetectionInput):
    """The queries of ``records`` that belong to the partition, ready to be judged, and what else the records hold.

    ``record_of`` and ``row_of`` int64 (n,): the record of each row of the pieces, as an index into ``records``, and its
    position in that record. ``policy_time``: policy time after the last record. ``reported``: the counts that loggers
    sent, each as (record, count, row that it precedes). ``misrouted``: messages to other partitions. ``rejected``: the
    bad rows by record. ``repaired``: as in ``DecodedRun``.
    """

    records: Sequence[SourceRecord] = ()
    record_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    row_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    policy_time: float = 0.0
    reported: list[tuple[int, Count, int]] = field(default_factory=list)
    misrouted: list[Message] = field(default_factory=list)
    rejected: dict[int, list[BadRow]] = field(default_factory=dict)
    repaired: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.record_of)

    def reject(self, bad: BadRow) -> None:
        """Rejects a row that the engine could not judge; ``bad.row`` is its row among the pieces."""
        row = replace(bad, row=int(self.row_of[bad.row]))
        self.rejected.setdefault(int(self.record_of[bad.row]), []).append(row)

    def join(self, parts: Sequence[Part]) -> None:
        """Sets the rows: those of ``parts``, no record of which is in two of them, in log order and in few pieces."""
        if len(parts) == 1:
            batch, self.record_of, self.row_of = parts[0]
            self.pieces = [batch]
        elif parts:
            pieces, records, rows = zip(*in_log_order(parts), strict=True)
            self.pieces = list(concatenate(pieces))
            self.record_of, self.row_of = np.concatenate(records), np.concatenate(rows)

    def counted(
        self, is_home: Callable[[str], bool], clocks: NDArray[np.float64], learning: NDArray[np.bool_]
    ) -> list[Counted]:
        """Returns the reported counts, and those of the rejected rows of principals that are home, in log order;
        the rows of others were sent on. ``clocks`` float64 and ``learning`` bool (records,): as of each record."""
        counts = self.reported
        if self.rejected:
            unjudged = [reported for reported in self._unjudged() if is_home(reported[1].principal)]
            counts = sorted([*unjudged, *counts], key=lambda reported: (reported[0], reported[2]))
        return [Counted(count, float(clocks[at]), row, bool(learning[at])) for at, count, row in counts]

    def _unjudged(self) -> Iterator[tuple[int, Count, int]]:
        """Yields the counts of rejected rows as in ``reported``; a row without a known principal has none."""
        for at, rows in self.rejected.items():
            start, end = np.searchsorted(self.record_of, (at, at + 1)).tolist()
            for bad in rows:
                count = count_of(bad, 0.0)
                if count is not None:
                    yield at, count, start + int(np.searchsorted(self.row_of[start:end], bad.row))


def count_of(bad: BadRow, time: float) -> Count | None:
    """Returns the count for a row that could not be read; None if its principal is unknown."""
    if not (is_name(bad.model) and is_name(bad.principal) and bad.queries > 0):
        return None
    return Count(bad.model, bad.principal, "unjudged", bad.queries, time, bad.reason)


class RecordDecoder:
    """Decodes the records of one partition. ``origins``: by partition of first arrival, the last offset of it that
    came in re-keyed."""

    def __init__(self, partition: int, partitions: int, topics: Topics) -> None:
        self.partitions = partitions
        self.origins: dict[int, int] = {}
        self.partition = partition
        self.topics = topics

    def decode(
        self, records: Sequence[SourceRecord], policy_time: float = 0.0, learn_below: float = 0
    ) -> DecodedRecords:
        """Decodes ``records``. Raises nothing for bad ones, which are in ``rejected``.

        A record on which the decoder fails unexpectedly is rejected as poison; its neighbours are kept. Repeated
        re-keyed records are left out. ``policy_time``: as of the record before. Offsets below ``learn_below`` are
        learned from, and nothing is enforced on them.
        """
        skipped, rejected = self._skipped(records)
        try:
            decoded = self._decode(records, skipped, rejected)
        except MemoryError:
            raise
        except Exception:
            poison = {at: [bad] for at, record in enumerate(records) if (bad := self._poison(record)) is not None}
            if not poison.keys() - skipped:
                raise
            decoded = self._decode(records, skipped | poison.keys(), poison | rejected)
        stamps = [-inf if at in skipped else record.timestamp for at, record in enumerate(records)]
        clocks = np.maximum.accumulate([policy_time, *stamps])[1:]
        decoded.policy_time = float(clocks[-1]) if records else policy_time
        learning = np.array([record.offset for record in records]) < learn_below
        decoded.times = clocks[decoded.record_of]
        decoded.learning = learning[decoded.record_of] if learning.any() else None
        decoded.counts = decoded.counted(self._is_home, clocks, learning)
        return decoded

    def _skipped(self, records: Sequence[SourceRecord]) -> tuple[set[int], dict[int, list[BadRow]]]:
        """Returns the re-keyed records that do not count, and the reasons of those without a valid origin."""
        skipped: set[int] = set()
        rejected: dict[int, list[BadRow]] = {}
        for at, record in enumerate(records):
            try:
                if is_repeated(record, self.partitions, self.origins):
                    skipped.add(at)
            except InvalidRecord as error:
                skipped.add(at)
                rejected[at] = [BadRow(-1, error.reason, error.detail)]
        return skipped, rejected

    def _poison(self, record: SourceRecord) -> BadRow | None:
        try:
            self._decode([record], set(), {})
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            return BadRow(-1, POISON, f"the decoder failed: {error!r}"[:_ERROR_CHARACTERS])
        return None

    def _decode(
        self, records: Sequence[SourceRecord], left_out: set[int], rejected: Mapping[int, list[BadRow]]
    ) -> DecodedRecords:
        """Decodes ``records`` but those ``left_out``."""
        decoded = DecodedRecords(records=records, rejected=dict(rejected))
        media_types = [record.media_type for record in records]
        known = []
        for at, media_type in enumerate(media_types):
            if at in left_out:
                continue
            if media_type in _KNOWN:
                known.append(at)
            else:
                decoded.rejected[at] = [_unknown(media_type)]
        parts: list[Part] = []
        counts: list[tuple[int, Count]] = []
        for packed, run in groupby(known, key=lambda at: media_types[at] == _PACKED):
            counts += self._decode_run(decoded, parts, list(run), packed)
        decoded.join(parts)
        if counts:
            rows = np.searchsorted(decoded.record_of, [at for at, _ in counts], side="right").tolist()
            decoded.reported = [(at, count, row) for (at, count), row in zip(counts, rows, strict=True)]
        return decoded

    def _decode_run(
        self, decoded: DecodedRecords, parts: list[Part], places: list[int], packed: bool
    ) -> list[tuple[int, Count]]:
        """Decodes neighbours of one encoding together: adds their rows to ``parts`` and returns their counts."""
        records = [decoded.records[at] for at in places]
        values = [record.value for record in records]
        run = (decode_packed_run if packed else decode_json_run)(values, [record.timestamp for record in records])
        if run.repaired:
            decoded.repaired.update(run.repaired)
        home_of = self._homes_elsewhere(run)
        unsent: list[int] = []
        if home_of:
            unsent = self._forward(decoded, places, home_of, {at for at, bad in run.bad if bad.row < 0})
        if run.bad:
            self._reject(decoded, places, run, unsent)
        numbers = np.array(places, np.int64)
        for batch, record, row in run.parts:
            if home_of:
                here = np.flatnonzero((self._homes(batch) == self.partition) & ~np.isin(record, unsent))
                batch, record, row = take(batch, here), record[here], row[here]  # noqa: PLW2901
            if len(batch):
                parts.append((batch, numbers[record], row))
        return [
            (places[at], count)
            for at, count in run.counts
            if at not in home_of or (at not in unsent and self._is_home(count.principal))
        ]

    def _is_home(self, principal: str) -> bool:
        """Returns whether this is the principal's partition."""
        return self._home(principal) == self.partition

    def _home(self, principal: str) -> int:
        return partition_of(principal, self.partitions)

    def _homes(self, batch: QueryBatch) -> NDArray[np.int64]:
        homes = [self._home(principal) for principal in batch.principals]
        return np.asarray(homes, np.int64)[batch.principal_index]

    def _homes_elsewhere(self, run: DecodedRun) -> dict[int, int]:
        """Returns the records of ``run``, in order, that have rows (also bad ones) or counts of another partition, and
        the last such partition of each."""
        home_of: dict[int, int] = {}
        if run.counts or run.bad:
            bad = ((at, count) for at, row in run.bad if (count := count_of(row, 0.0)) is not None)
            homes = ((at, self._home(count.principal)) for at, count in (*run.counts, *bad))
            home_of = {at: home for at, home in homes if home != self.partition}
        for batch, record, _ in run.parts:
            home = self._homes(batch)
            rows = np.flatnonzero(home != self.partition)
            if len(rows):
                home_of.update(zip(record[rows].tolist(), home[rows].tolist(), strict=True))
        return dict(sorted(home_of.items()))

    def _forward(
        self, decoded: DecodedRecords, places: list[int], home_of: Mapping[int, int], unreadable: set[int]
    ) -> list[int]:
        """Re-keys what belongs to other partitions, ``unreadable`` records whole. Returns the records that are rejected
        for it."""
        unsent = []
        for at, home in home_of.items():
            try:
                decoded.misrouted.extend(self._rekeyed(decoded.records[places[at]], home, at in unreadable))
            except InvalidRecord as error:
                decoded.rejected[places[at]] = [BadRow(-1, error.reason, error.detail)]
                unsent.append(at)
        return unsent

    def _reject(self, decoded: DecodedRecords, places: list[int], run: DecodedRun, unsent: list[int]) -> None:
        """Adds the bad rows of ``run``. A row of another partition is no query here: it was re-keyed, whole or as a
        count."""
        for at, bad in run.bad:
            elsewhere = count_of(bad, 0.0) is not None and not self._is_home(bad.principal)
            if at in unsent or (elsewhere and bad.row < 0):
                continue
            decoded.rejected.setdefault(places[at], []).append(replace(bad, queries=0) if elsewhere else bad)

    def _rekeyed(self, record: SourceRecord, home: int, unreadable: bool) -> list[Message]:
        """Returns the messages for ``home``. A single query, or an ``unreadable`` record, goes there as it came: there
        it counts against its principal. Of a packed record each group of rows goes to its partition. Raises
        InvalidRecord for a record that was sent here twice."""
        if record.source == "rekeyed":
            raise InvalidRecord("partition", "a re-keyed record arrived in a partition that is not its principal's")
        if record.packed and not unreadable:
            return list(self._repacked(record))
        others = ((name, data) for name, data in record.headers.items() if name != ORIGIN)
        headers = (*headers_within(others, _HEADER_BYTES), (ORIGIN, self._origin(record)))
        key = record.key if len(record.key or b"") <= _HEADER_BYTES else None
        return [Message(self.topics.rekeyed, home, key, record.value or b"", headers, record.timestamp)]

    def _repacked(self, record: SourceRecord) -> Iterator[Message]:
        """Yields the rows of ``record`` that belong elsewhere, decoded again without their neighbours, and counts of
        bad ones.

        A record whose rows all go to one partition is not changed: packed again it might be a little too large to be
        read.
        """
        decoded = decode_packed(record.value, timestamp=record.timestamp)
        counts = self._counts_elsewhere(decoded, record.timestamp)
        batch = decoded.batch or empty_batch(next(iter(counts.values()))[0].model, "-")
        home = self._homes(batch) if len(batch) else np.zeros(0, np.int64)
        headers = ((CONTENT_TYPE, _PACKED), (ORIGIN, self._origin(record)))
        for partition in sorted({*home.tolist(), *counts} - {self.partition}):
            rows = np.flatnonzero(home == partition)
            as_it_came = len(rows) == len(batch) and not (decoded.counts or decoded.bad_rows)
            value = record.value or b""
            if not as_it_came:
                value = encode_packed(select(batch, rows), counts.get(partition, ()), RECORD_BYTES)
            yield Message(self.topics.rekeyed, partition, None, value, headers, record.timestamp)

    def _counts_elsewhere(self, decoded: DecodedQueries, time: float) -> dict[int, list[Count]]:
        """Returns, by home, the counts in ``decoded``, and counts of its bad rows, one for each principal and
        reason."""
        bad = [count for row in decoded.bad_rows if (count := count_of(row, time)) is not None]
        summed = [replace(count, queries=rows * count.queries) for count, rows in Counter(bad).items()]
        counts: dict[int, list[Count]] = {}
        for count in (*decoded.counts, *summed):
            counts.setdefault(self._home(count.principal), []).append(count)
        return {home: of_home for home, of_home in counts.items() if home != self.partition}

    def _origin(self, record: SourceRecord) -> bytes:
        return f"{self.partition}:{record.offset}".encode()


def _unknown(media_type: bytes | None) -> BadRow:
    if media_type == UNREAD_CONTENT_TYPE:
        return BadRow(-1, "too-large", "its batch was not read: it decompresses to far more than a batch may have")
    return BadRow(-1, "content-type", f"{(media_type or b'')[:64]!r} is neither JSON nor {PACKED_CONTENT_TYPE}")
