"""Dead letters: unreadable input, kept for people. Each fits its topic and holds only what is bad.

For a packed record with some bad rows the letter holds those rows, as a packed record of their own: their neighbours
are other customers'. Letters that are still too large are cut; headers give the size and a digest of the original
record. Letters of one reason are limited per minute of record time: beyond the limit fewer and fewer are kept, and all
are counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from detector.contracts.codecs.limits import TEXT_CHARACTERS
from detector.contracts.codecs.packed_queries import excerpt
from detector.contracts.codecs.records import encode
from detector.contracts.errors import InvalidRecord
from detector.contracts.findings import DeadLetter
from detector.contracts.queries import BadRow
from detector.contracts.topics import Topics
from detector.stream.intake import SourceRecord
from detector.stream.record import Message, within

LETTER = "weirguard.dead-letter"
"""Header that holds the description of the letter, a ``DeadLetter`` as JSON."""

_OWN_HEADERS = ("weirguard.", "__connect.errors.")
_HEADER_BYTES = 16_384
_KEY_BYTES = 1_024
_MOST_ROWS = 1_000
_LISTED_ROWS = 100
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class LetterLimits:
    """``largest``: bytes of one message, at least 64 kB. ``per_minute``: letters of one reason that are kept."""

    largest: int = 1_048_576
    per_minute: int = 1_000


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with one record: ``rows``, or all of it (row -1)."""

    rows: Sequence[BadRow]

    @property
    def whole(self) -> bool:
        """Whether no part of the record could be used."""
        return any(row.row < 0 for row in self.rows)

    @property
    def reason(self) -> str:
        """The most frequent one."""
        return Counter(row.reason for row in self.rows).most_common(1)[0][0]


def faults_of(refused: Mapping[int, Sequence[BadRow]]) -> dict[int, Faults]:
    """The faults of records, by their place: rows ``refused``."""
    return {at: Faults(rows) for at, rows in refused.items()}


@dataclass(slots=True)
class Letters:
    """``kept``, to be sent; ``not_kept``: the bad rows and records that are in none of them, by reason."""

    kept: list[Message] = field(default_factory=list)
    not_kept: Counter[str] = field(default_factory=Counter)


class DeadLetters:
    """Writes the dead letters of one partition."""

    def __init__(self, topics: Topics, partition: int, limits: LetterLimits) -> None:
        self._topics = topics
        self._partition = partition
        self._limits = limits
        self._minute = 0.0
        self._seen: Counter[str] = Counter()

    def write(self, records: Sequence[SourceRecord], faults: Mapping[int, Faults], now: float) -> Letters:
        """Letters for the ``faults`` of ``records``, by their place there; ``now``: policy time, seconds."""
        letters = Letters()
        if not faults:
            return letters
        if now // _MINUTE != self._minute:
            self._minute = now // _MINUTE
            self._seen.clear()
        for at, found in sorted(faults.items()):
            if self._is_kept(found.reason):
                letter, left = self._letter(records[at], found)
                letters.kept.append(letter)
            else:
                left = found.rows
            letters.not_kept.update(row.reason for row in left)
        return letters

    def _is_kept(self, reason: str) -> bool:
        """All up to the limit, then the one that doubles it, and again."""
        self._seen[reason] += 1
        seen, limit = self._seen[reason], self._limits.per_minute
        times, over = divmod(seen, limit)
        return seen <= limit or (over == 0 and times & (times - 1) == 0)

    def _letter(self, record: SourceRecord, faults: Faults) -> tuple[Message, Sequence[BadRow]]:
        """The letter, and the bad rows that it has no room for."""
        value, rows = self._value(record, faults)
        whole = record.value or b""
        described = DeadLetter(
            topic=getattr(self._topics, record.source),
            partition=self._partition,
            offset=record.offset,
            row=faults.rows[0].row if len(faults.rows) == 1 and faults.rows[0].row >= 0 else None,
            reason=faults.reason,
            message=_message(faults.rows),
            rows=tuple(rows),
            size=len(whole),
            digest=hashlib.blake2b(whole, digest_size=16).hexdigest(),
        )
        headers = (*_headers_of(record), *_own_headers(described))
        key = record.key if record.key is None else record.key[:_KEY_BYTES]
        letter = Message(self._topics.dead_letters, None, key, value, headers, record.timestamp)
        left = [row for row in faults.rows if row.row >= 0 and rows and row.row not in described.rows]
        return cut_letter(letter, self._limits.largest), left

    def _value(self, record: SourceRecord, faults: Faults) -> tuple[bytes, list[int]]:
        """What the letter holds, and which rows these are; none for the record as it came."""
        value = record.value or b""
        rows = [row.row for row in faults.rows if row.row >= 0][:_MOST_ROWS]
        if faults.whole or not record.packed:
            return value, []
        room = self._limits.largest - 2 * _HEADER_BYTES
        try:
            part = excerpt(value, rows)
            while len(part) > room and len(rows) > 1:
                rows = rows[: len(rows) // 2]
                part = excerpt(value, rows)
        except InvalidRecord:  # of a model that cannot be written: then every row is bad, and none is another's
            return value, []
        return part, rows


def cut_letter(letter: Message, largest: int) -> Message:
    """``letter`` with no more of its value than lets it have ``largest`` bytes."""
    room = len(letter.value) - max(letter.nbytes - largest, 0)
    return letter if room == len(letter.value) else replace(letter, value=letter.value[: max(room, 0)])


def _message(rows: Sequence[BadRow]) -> str:
    """For people, who count rows from 1."""
    text = "; ".join(
        (f"row {row.row + 1}: " if row.row >= 0 else "") + f"{row.reason}: {row.detail}" for row in rows[:_LISTED_ROWS]
    )
    text = text.encode(errors="replace").decode()
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 3] + "..."


def _headers_of(record: SourceRecord) -> Iterable[tuple[str, bytes]]:
    """The record's own headers, as far as there is room; none that looks like ours."""
    foreign = ((name, data) for name, data in record.headers.items() if not name.startswith(_OWN_HEADERS))
    return within(foreign, _HEADER_BYTES)


def _own_headers(described: DeadLetter) -> Iterator[tuple[str, bytes]]:
    yield LETTER, encode(described)
    yield "weirguard.original-bytes", str(described.size).encode()
    yield "weirguard.original-blake2b", str(described.digest).encode()
    yield "__connect.errors.topic", described.topic.encode()
    yield "__connect.errors.partition", str(described.partition).encode()
    yield "__connect.errors.offset", str(described.offset).encode()
    yield "__connect.errors.exception.class.name", b"detector.contracts.errors.InvalidRecord"
    yield "__connect.errors.exception.message", described.message.encode()[:4000]
