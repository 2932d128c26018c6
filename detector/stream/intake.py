"""Decodes source records into rows of this partition; finds strays and dead letters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import concatenate, in_log_order, no_queries, select, take
from detector.contracts.codecs.json_queries import JSON_CONTENT_TYPE, decode_json_run
from detector.contracts.codecs.limits import RECORD_BYTES, UNREAD_CONTENT_TYPE
from detector.contracts.codecs.packed_queries import (
    PACKED_CONTENT_TYPE,
    decode_packed,
    decode_packed_run,
    encode_packed,
)
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import BadRow, Count, DecodedQueries, DecodedRun, Part, QueryBatch
from detector.contracts.topics import Topics, partition_of
from detector.stream.record import Message, within
from detector.stream.unread import unread

CONTENT_TYPE = "content-type"
ORIGIN = "weirguard-origin"
"""Header of a re-keyed record: ``partition:offset`` of its first arrival."""

POISON = "poison"
"""The reason of a record that ends, or would end, every worker that processes it."""

_HEADER_BYTES = 16_384
_ORIGIN = re.compile(rb"([0-9]{1,6}):([0-9]{1,18})")
_ERROR_CHARACTERS = 1_000
_PACKED = PACKED_CONTENT_TYPE.encode()
_KNOWN = (_PACKED, JSON_CONTENT_TYPE.encode(), None)


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One Kafka record of a source ("queries", "rekeyed" or "commands"); ``timestamp`` in seconds UTC."""

    source: str
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return len(self.value or b"") + 200

    @property
    def packed(self) -> bool:
        """Whether it says that it is a packed record."""
        return _media_type(self) == _PACKED


@dataclass(slots=True)
class Intake:
    """The content of a run of source records, in log order.

    ``record_of`` and ``row_of`` int64 (rows,) give the record index of each row of the pieces and its position in that
    record. ``counts`` precede a row. ``strays`` are messages to the right partition, ``refused`` the bad rows by record
    index, and ``repaired`` as in ``DecodedRun``.
    """

    pieces: list[QueryBatch] = field(default_factory=list)
    record_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    row_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: list[tuple[int, Count, int]] = field(default_factory=list)
    strays: list[Message] = field(default_factory=list)
    refused: dict[int, list[BadRow]] = field(default_factory=dict)
    repaired: Counter[str] = field(default_factory=Counter)
    _parts: list[Part] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    def add(self, part: Part) -> None:
        """Adds rows of records that no other part has rows of."""
        self._parts.append(part)

    def close(self) -> None:
        """Ends the input: puts it in log order and joins what can be joined, for the engine."""
        if len(self._parts) == 1:
            batch, self.record_of, self.row_of = self._parts[0]
            self.pieces = [batch]
        elif self._parts:
            pieces, records, rows = zip(*in_log_order(self._parts), strict=True)
            self.pieces = list(concatenate(pieces))
            self.record_of, self.row_of = np.concatenate(records), np.concatenate(rows)


class Receiver:
    """Decodes the records of one partition."""

    def __init__(self, partition: int, partitions: int, topics: Topics) -> None:
        self.partitions = partitions
        self._partition = partition
        self._topics = topics

    def receive(self, records: Sequence[SourceRecord]) -> Intake:
        """Decodes ``records``. Raises nothing for bad ones; they are in ``refused``.

        A record on which the decoder fails unexpectedly is refused as poison; its neighbours are kept.
        """
        try:
            return self._receive(records, {})
        except MemoryError:
            raise
        except Exception:
            poison = {at: bad for at, record in enumerate(records) if (bad := self._poison(record)) is not None}
            if not poison:
                raise
            return self._receive(records, poison)

    def _poison(self, record: SourceRecord) -> BadRow | None:
        try:
            self._receive([record], {})
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            return BadRow(-1, POISON, f"the decoder failed: {error!r}"[:_ERROR_CHARACTERS])
        return None

    def _receive(self, records: Sequence[SourceRecord], poison: Mapping[int, BadRow]) -> Intake:
        intake = Intake(refused={at: [bad] for at, bad in poison.items()})
        counts: list[tuple[int, Count]] = []
        media_types = [_media_type(record) for record in records]
        known = [at for at, media_type in enumerate(media_types) if media_type in _KNOWN and at not in poison]
        if len(known) < len(records):
            for at in sorted({*range(len(records))} - {*known, *poison}):
                intake.refused[at] = [_unknown(media_types[at])]
        for packed, run in groupby(known, key=lambda at: media_types[at] == _PACKED):
            places = list(run)
            counts += self._take_in(intake, places, [records[at] for at in places], packed)
        intake.close()
        self._place_counts(intake, counts)
        return intake

    def _take_in(
        self, intake: Intake, places: list[int], records: list[SourceRecord], packed: bool
    ) -> list[tuple[int, Count]]:
        """Decodes neighbours of one encoding together. Returns their counts."""
        values = [record.value for record in records]
        run = (decode_packed_run if packed else decode_json_run)(values, [record.timestamp for record in records])
        if run.repaired:
            intake.repaired.update(run.repaired)
        away = self._away(run)
        lost: list[int] = []
        if away:
            lost = self._forward(intake, places, records, away, {place for place, bad in run.bad if bad.row < 0})
        if run.bad:
            self._refuse(intake, places, run, lost)
        numbers = np.array(places, np.int64)
        for batch, record, row in run.parts:
            if away:
                here = np.flatnonzero((self._homes(batch) == self._partition) & ~np.isin(record, lost))
                batch, record, row = take(batch, here), record[here], row[here]  # noqa: PLW2901
            if len(batch):
                intake.add((batch, numbers[record], row))
        return [
            (places[place], count)
            for place, count in run.counts
            if place not in away or (place not in lost and self.lives_here(count.principal))
        ]

    def lives_here(self, principal: str) -> bool:
        """Returns whether this is the principal's partition."""
        return self._home(principal) == self._partition

    def _home(self, principal: str) -> int:
        return partition_of(principal, self.partitions)

    def _homes(self, batch: QueryBatch) -> NDArray[np.int64]:
        homes = [self._home(principal) for principal in batch.principals]
        return np.asarray(homes, np.int64)[batch.principal_index]

    def _away(self, run: DecodedRun) -> dict[int, int]:
        """Returns the records of ``run``, in order, that have rows (also bad ones) or counts of another partition, and
        the last such partition of each."""
        away: dict[int, int] = {}
        if run.counts or run.bad:
            told = [*run.counts, *((place, count) for place, bad in run.bad if (count := unread(bad, 0.0)) is not None)]
            homes = ((place, self._home(count.principal)) for place, count in told)
            away = {place: home for place, home in homes if home != self._partition}
        for batch, record, _ in run.parts:
            home = self._homes(batch)
            if np.count_nonzero(home != self._partition):
                rows = np.flatnonzero(home != self._partition)
                away.update(zip(record[rows].tolist(), home[rows].tolist(), strict=True))
        return dict(sorted(away.items()))

    def _forward(
        self,
        intake: Intake,
        places: list[int],
        records: list[SourceRecord],
        away: Mapping[int, int],
        unreadable: set[int],
    ) -> list[int]:
        """Re-keys what belongs to other partitions, ``unreadable`` records whole. Returns the records that are refused
        for it."""
        lost = []
        for place, home in away.items():
            try:
                intake.strays.extend(self._strays(records[place], home, place in unreadable))
            except InvalidRecord as error:
                intake.refused[places[place]] = [BadRow(-1, error.reason, error.detail)]
                lost.append(place)
        return lost

    def _refuse(self, intake: Intake, places: list[int], run: DecodedRun, lost: list[int]) -> None:
        """Notes the bad rows of ``run``. A row of another partition is no query here: it was re-keyed, whole or as a
        count."""
        for place, bad in run.bad:
            elsewhere = unread(bad, 0.0) is not None and not self.lives_here(bad.principal)
            if place in lost or (elsewhere and bad.row < 0):
                continue
            intake.refused.setdefault(places[place], []).append(replace(bad, queries=0) if elsewhere else bad)

    def _strays(self, record: SourceRecord, home: int, unreadable: bool) -> list[Message]:
        """Returns the messages for ``home``. A single query, or an ``unreadable`` record, goes there as it came: there
        it counts against its principal. Of a packed record each group of rows goes to its partition; a stray that was
        sent here twice is an error."""
        if record.source == "rekeyed":
            raise InvalidRecord("partition", "a re-keyed record arrived in a partition that is not its principal's")
        if record.packed and not unreadable:
            return list(self._repacked(record))
        own = ((name, data) for name, data in record.headers.items() if name != ORIGIN)
        headers = (*within(own, _HEADER_BYTES), (ORIGIN, self._origin(record)))
        key = record.key if len(record.key or b"") <= _HEADER_BYTES else None
        return [Message(self._topics.rekeyed, home, key, record.value or b"", headers, record.timestamp)]

    def _repacked(self, record: SourceRecord) -> Iterator[Message]:
        """Yields the rows of ``record`` that belong elsewhere, decoded again without their neighbours, and counts of
        bad ones.

        A record whose rows all go to one partition stays as it is: packed again it might be a little too large to be
        read.
        """
        decoded = decode_packed(record.value, timestamp=record.timestamp)
        counts = self._counts_elsewhere(decoded, record.timestamp)
        batch = decoded.batch or no_queries(next(iter(counts.values()))[0].model, "-")
        home = self._homes(batch) if len(batch) else np.zeros(0, np.int64)
        headers = ((CONTENT_TYPE, _PACKED), (ORIGIN, self._origin(record)))
        for partition in sorted({*home.tolist(), *counts} - {self._partition}):
            rows = np.flatnonzero(home == partition)
            as_it_came = len(rows) == len(batch) and not (decoded.counts or decoded.bad_rows)
            value = record.value or b""
            if not as_it_came:
                value = encode_packed(select(batch, rows), counts.get(partition, ()), RECORD_BYTES)
            yield Message(self._topics.rekeyed, partition, None, value, headers, record.timestamp)

    def _counts_elsewhere(self, decoded: DecodedQueries, time: float) -> dict[int, list[Count]]:
        """Returns, by home, the counts in ``decoded``, and counts of its bad rows, one for each principal and
        reason."""
        bad = [count for row in decoded.bad_rows if (count := unread(row, time)) is not None]
        summed = [replace(count, queries=rows * count.queries) for count, rows in Counter(bad).items()]
        counts: dict[int, list[Count]] = {}
        for count in (*decoded.counts, *summed):
            counts.setdefault(self._home(count.principal), []).append(count)
        return {home: own for home, own in counts.items() if home != self._partition}

    def _place_counts(self, intake: Intake, counts: list[tuple[int, Count]]) -> None:
        """Places each count after the rows of its record."""
        if counts:
            rows = np.searchsorted(intake.record_of, [at for at, _ in counts], side="right").tolist()
            intake.counts += [(at, count, row) for (at, count), row in zip(counts, rows, strict=True)]

    def _origin(self, record: SourceRecord) -> bytes:
        return f"{self._partition}:{record.offset}".encode()


def _unknown(media_type: bytes | None) -> BadRow:
    if media_type == UNREAD_CONTENT_TYPE:
        return BadRow(-1, "too-large", "its batch was not read: it decompresses to far more than a batch may have")
    return BadRow(-1, "content-type", f"{(media_type or b'')[:64]!r} is neither JSON nor {PACKED_CONTENT_TYPE}")


def _media_type(record: SourceRecord) -> bytes | None:
    content_type = record.headers.get(CONTENT_TYPE)
    return content_type.partition(b";")[0].strip().lower() if content_type else None


def origin_of(record: SourceRecord, partitions: int) -> tuple[int, int]:
    """Returns (partition, offset) of the first arrival of a re-keyed record.

    Raises InvalidRecord where the header is missing or malformed, or names none of the ``partitions``: each named one
    takes memory.
    """
    found = _ORIGIN.fullmatch(record.headers.get(ORIGIN, b""))
    if found is None or int(found[1]) >= partitions:
        detail = f"a re-keyed record needs the header {ORIGIN}: partition:offset, of {partitions} partitions"
        raise InvalidRecord("origin", detail)
    return int(found[1]), int(found[2])
