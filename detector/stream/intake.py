"""Source records to rows that belong here: decoding, re-keying of strays, dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import concatenate, take
from detector.contracts.codecs.queries_json import JSON_CONTENT_TYPE, decode_json_run
from detector.contracts.codecs.queries_packed import PACKED_CONTENT_TYPE, decode_packed, encode_packed
from detector.contracts.codecs.records import encode
from detector.contracts.errors import InvalidRecord
from detector.contracts.findings import DeadLetter
from detector.contracts.partitioning import partition_of
from detector.contracts.queries import BadRow, Count, DecodedQueries, QueryBatch
from detector.contracts.topics import Topics
from detector.stream.record import Message

CONTENT_TYPE = "content-type"
ORIGIN = "weirguard-origin"
"""Header of a re-keyed record: ``partition:offset`` of its first arrival."""

_LISTED_ROWS = 100


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


@dataclass(slots=True)
class Intake:
    """What a run of source records came to, in log order.

    ``record_of`` and ``row_of`` int64 (rows,) give the record index of each row of the pieces and its place in that
    record. ``counts`` stand before a row. ``strays`` are messages to the right partition, ``refused`` the bad rows by
    record index.
    """

    pieces: list[QueryBatch] = field(default_factory=list)
    record_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    row_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: list[tuple[int, Count, int]] = field(default_factory=list)
    strays: list[Message] = field(default_factory=list)
    refused: dict[int, list[BadRow]] = field(default_factory=dict)
    _records: list[NDArray[np.int64]] = field(default_factory=list)
    _rows: list[NDArray[np.int64]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    def add(self, batch: QueryBatch, records: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Append ``batch``, whose rows are ``rows`` of the records with indices ``records``, both int64 (n,)."""
        self.pieces.append(batch)
        self._records.append(records)
        self._rows.append(rows)

    def close(self) -> None:
        """All is in: join what can be joined, for the engine."""
        self.pieces = list(concatenate(self.pieces))
        if self._records:
            self.record_of, self.row_of = np.concatenate(self._records), np.concatenate(self._rows)


class Receiver:
    """Decodes the records of one partition."""

    def __init__(self, partition: int, partitions: int, topics: Topics) -> None:
        self._partition = partition
        self._partitions = partitions
        self._topics = topics

    def receive(self, records: Sequence[SourceRecord]) -> Intake:
        """Decode ``records``; nothing is raised for bad ones, they are in ``refused``."""
        intake = Intake()
        for packed, run in groupby(enumerate(records), key=lambda numbered: _is_packed(numbered[1])):
            if packed:
                for at, record in run:
                    self._receive_packed(intake, at, record)
            else:
                self._receive_single(intake, list(run))
        intake.close()
        return intake

    def _receive_packed(self, intake: Intake, at: int, record: SourceRecord) -> None:
        try:
            self._place(intake, at, record, decode_packed(record.value or b""))
        except InvalidRecord as error:
            intake.refused[at] = [BadRow(-1, error.reason, error.detail)]

    def _receive_single(self, intake: Intake, numbered: Sequence[tuple[int, SourceRecord]]) -> None:
        """A run of single JSON queries, decoded together."""
        wanted = [(at, record) for at, record in numbered if _is_json(record)]
        for at, record in numbered:
            if not _is_json(record):
                detail = f"{record.headers[CONTENT_TYPE][:64]!r} is neither JSON nor {PACKED_CONTENT_TYPE}"
                intake.refused[at] = [BadRow(-1, "content-type", detail)]
        places = np.array([at for at, _ in wanted], np.int64)
        run = decode_json_run([record.value for _, record in wanted], [record.timestamp for _, record in wanted])
        for bad in run.bad:
            intake.refused[int(places[bad.row])] = [BadRow(-1, bad.reason, bad.detail)]
        for batch, rows in run.batches:
            home = self._homes(batch)
            for row in np.flatnonzero(home != self._partition).tolist():
                at, record = wanted[rows[row]]
                self._forward(intake, at, record, int(home[row]))
            here = np.flatnonzero(home == self._partition)
            if len(here):
                mine = take(batch, here) if len(here) < len(batch) else batch
                intake.add(mine, places[rows[here]], np.zeros(len(here), np.int64))

    def _forward(self, intake: Intake, at: int, record: SourceRecord, partition: int) -> None:
        """A single query that lives elsewhere goes there as it came."""
        if record.source == "rekeyed":
            detail = "a re-keyed record arrived in a partition that is not its principal's"
            intake.refused[at] = [BadRow(-1, "partition", detail)]
            return
        headers = (*record.headers.items(), (ORIGIN, self._origin(record)))
        stray = Message(self._topics.rekeyed, partition, record.key, record.value or b"", headers, record.timestamp)
        intake.strays.append(stray)

    def _origin(self, record: SourceRecord) -> bytes:
        return f"{self._partition}:{record.offset}".encode()

    def dead_letters(self, records: Sequence[SourceRecord], refused: Mapping[int, Sequence[BadRow]]) -> list[Message]:
        """One message for each record with bad rows: its bytes as they came, and the reasons as headers."""
        return [self._dead_letter(records[at], rows) for at, rows in sorted(refused.items())]

    def _place(self, intake: Intake, at: int, record: SourceRecord, decoded: DecodedQueries) -> None:
        if decoded.bad_rows:
            intake.refused[at] = list(decoded.bad_rows)
        batch, rows = decoded.batch, decoded.rows
        if batch is not None:
            home = self._homes(batch)
            if (home != self._partition).any():
                intake.strays.extend(self._strays(record, batch, home))
                here = np.flatnonzero(home == self._partition)
                batch, rows = take(batch, here), rows[here]
            if len(batch):
                intake.add(batch, np.full(len(batch), at, np.int64), rows)
        for count in decoded.counts:
            self._place_count(intake, at, count)

    def _place_count(self, intake: Intake, at: int, count: Count) -> None:
        if partition_of(count.principal, self._partitions) == self._partition:
            intake.counts.append((at, count, intake.rows))
        else:
            detail = "a count of missing queries arrived in a partition that is not its principal's"
            intake.refused.setdefault(at, []).append(BadRow(-1, "partition", detail))

    def _homes(self, batch: QueryBatch) -> NDArray[np.int64]:
        homes = [partition_of(principal, self._partitions) for principal in batch.principals]
        return np.asarray(homes, np.int64)[batch.principal_index]

    def _strays(self, record: SourceRecord, batch: QueryBatch, home: NDArray[np.int64]) -> Iterable[Message]:
        """The rows that live elsewhere, each group to its partition; a stray that was sent here twice is an error."""
        if record.source == "rekeyed":
            raise InvalidRecord("partition", "a re-keyed record arrived in a partition that is not its principal's")
        origin = self._origin(record)
        for partition in np.unique(home[home != self._partition]):
            headers = ((CONTENT_TYPE, PACKED_CONTENT_TYPE.encode()), (ORIGIN, origin))
            stray = take(batch, np.flatnonzero(home == partition))
            yield Message(self._topics.rekeyed, int(partition), None, encode_packed(stray), headers, record.timestamp)

    def _dead_letter(self, record: SourceRecord, rows: Sequence[BadRow]) -> Message:
        topic = getattr(self._topics, record.source)
        first = rows[0]
        reason = Counter(row.reason for row in rows).most_common(1)[0][0]
        message = "; ".join(f"row {row.row}: {row.reason}: {row.detail}" for row in rows[:_LISTED_ROWS])
        row = first.row if len(rows) == 1 and first.row >= 0 else None
        letter = DeadLetter(topic, self._partition, record.offset, row, reason, message)
        headers = (
            *record.headers.items(),
            ("weirguard.dead-letter", encode(letter)),
            ("__connect.errors.topic", topic.encode()),
            ("__connect.errors.partition", str(self._partition).encode()),
            ("__connect.errors.offset", str(record.offset).encode()),
            ("__connect.errors.exception.class.name", b"detector.contracts.errors.InvalidRecord"),
            ("__connect.errors.exception.message", message.encode()[:4000]),
        )
        value = record.value if record.value is not None else b""
        return Message(self._topics.dead_letters, None, record.key, value, headers, record.timestamp)


def _is_packed(record: SourceRecord) -> bool:
    return _media_type(record) == PACKED_CONTENT_TYPE.encode()


def _is_json(record: SourceRecord) -> bool:
    return _media_type(record) in (None, JSON_CONTENT_TYPE.encode())


def _media_type(record: SourceRecord) -> bytes | None:
    content_type = record.headers.get(CONTENT_TYPE)
    return content_type.partition(b";")[0].strip().lower() if content_type else None


def origin_of(record: SourceRecord) -> tuple[int, int]:
    """(partition, offset) of first arrival of a re-keyed record.

    Raises InvalidRecord where the header is missing or malformed.
    """
    try:
        partition, offset = record.headers[ORIGIN].split(b":")
        return int(partition), int(offset)
    except (KeyError, ValueError) as error:
        raise InvalidRecord("origin", f"a re-keyed record needs the header {ORIGIN}: partition:offset") from error
