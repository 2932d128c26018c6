"""Dead letters: unreadable input, kept for people. Each fits its topic and holds only what is bad.

For a packed record with some bad rows the letter holds those rows, as a packed record of their own: their neighbours
are other customers'. Letters that are still too large are cut; headers give the size and a digest of the original
record. Letters of one reason are limited per minute of record time: beyond the limit fewer and fewer are kept, and all
are counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from detector.contracts.codecs.limits import TEXT_CHARACTERS
from detector.contracts.codecs.packed_queries import excerpt
from detector.contracts.codecs.records import LETTER_HEADER, encode
from detector.contracts.errors import InvalidRecord
from detector.contracts.findings import DeadLetter
from detector.contracts.queries import BadRow
from detector.contracts.topics import Topics
from detector.stream.source_records import SourceRecord
from detector.stream.state_log import Message, headers_within

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


class DeadLetters:
    """Writes the dead letters of one partition."""

    def __init__(self, topics: Topics, partition: int, limits: LetterLimits) -> None:
        self._topics = topics
        self._partition = partition
        self._limits = limits
        self._minute = 0.0
        self._seen: Counter[str] = Counter()

    def write(
        self, records: Sequence[SourceRecord], rejected: Mapping[int, Sequence[BadRow]], now: float
    ) -> tuple[list[Message], Counter[str]]:
        """Returns the letters for the ``rejected`` rows of ``records``, by their index, and how many bad rows
        and records have no letter, by reason. ``now``: policy time, seconds."""
        letters: list[Message] = []
        not_kept: Counter[str] = Counter()
        if rejected and now // _MINUTE != self._minute:
            self._minute = now // _MINUTE
            self._seen.clear()
        for at, rows in sorted(rejected.items()):
            reason = Counter(row.reason for row in rows).most_common(1)[0][0]
            left = rows
            if self._is_kept(reason):
                letter, left = self._letter(records[at], rows, reason)
                letters.append(letter)
            not_kept.update(row.reason for row in left)
        return letters, not_kept

    def _is_kept(self, reason: str) -> bool:
        """Returns True up to the limit, then for the letter that doubles it, and so on."""
        self._seen[reason] += 1
        seen, limit = self._seen[reason], self._limits.per_minute
        times, over = divmod(seen, limit)
        return seen <= limit or (over == 0 and times & (times - 1) == 0)

    def _letter(self, record: SourceRecord, bad: Sequence[BadRow], reason: str) -> tuple[Message, Sequence[BadRow]]:
        """Returns the letter, and the bad rows that it has no room for."""
        value, rows = self._value(record, bad)
        described = DeadLetter(
            topic=getattr(self._topics, record.source),
            partition=self._partition,
            offset=record.offset,
            row=bad[0].row if len(bad) == 1 and bad[0].row >= 0 else None,
            reason=reason,
            message=_message(bad),
            rows=tuple(rows),
            size=len(record.value or b""),
            digest=hashlib.blake2b(record.value or b"", digest_size=16).hexdigest(),
        )
        foreign = ((name, data) for name, data in record.headers.items() if not name.startswith(_OWN_HEADERS))
        headers = (*headers_within(foreign, _HEADER_BYTES), *_own_headers(described))
        key = record.key if record.key is None else record.key[:_KEY_BYTES]
        letter = Message(self._topics.dead_letters, None, key, value, headers, record.timestamp)
        left = [row for row in bad if row.row >= 0 and rows and row.row not in described.rows]
        return cut_letter(letter, self._limits.largest), left

    def _value(self, record: SourceRecord, bad: Sequence[BadRow]) -> tuple[bytes, list[int]]:
        """Returns the value of the letter, and the rows in it: none if it is the whole record."""
        value = record.value or b""
        if not record.packed or any(row.row < 0 for row in bad):
            return value, []
        rows = [row.row for row in bad][:_MOST_ROWS]
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
    """Returns ``letter`` with its value cut so that it has at most ``largest`` bytes."""
    room = len(letter.value) - max(letter.nbytes - largest, 0)
    return letter if room == len(letter.value) else msgspec.structs.replace(letter, value=letter.value[: max(room, 0)])


def _message(rows: Sequence[BadRow]) -> str:
    """Returns a text for people, who count rows from 1."""
    text = "; ".join(
        (f"row {row.row + 1}: " if row.row >= 0 else "") + f"{row.reason}: {row.detail}" for row in rows[:_LISTED_ROWS]
    )
    text = text.encode(errors="replace").decode()
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 3] + "..."


def _own_headers(described: DeadLetter) -> Iterator[tuple[str, bytes]]:
    yield LETTER_HEADER, encode(described)
    yield "weirguard.original-bytes", str(described.size).encode()
    yield "weirguard.original-blake2b", str(described.digest).encode()
    yield "__connect.errors.topic", described.topic.encode()
    yield "__connect.errors.partition", str(described.partition).encode()
    yield "__connect.errors.offset", str(described.offset).encode()
    yield "__connect.errors.exception.class.name", b"detector.contracts.errors.InvalidRecord"
    yield "__connect.errors.exception.message", described.message.encode()[:4000]
