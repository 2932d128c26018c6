"""The records that a worker reads: their plausible time, their origin, and how far each topic was read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE
from detector.contracts.errors import InvalidRecord

CONTENT_TYPE = "content-type"
ORIGIN = "weirguard-origin"
"""Header of a re-keyed record: ``partition:offset`` of its first arrival."""

AHEAD_SECONDS = 300.0
"""The most seconds that a broker's clock may be ahead of the worker's."""
_FIRST_KAFKA = 1_293_840_000.0
"""2011-01-01: older timestamps come from a clock that was never set."""
_ORIGIN = re.compile(rb"([0-9]{1,6}):([0-9]{1,18})")
_PACKED = PACKED_CONTENT_TYPE.encode()

TimeFault = Literal["absent", "past", "future"]


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One Kafka record of a source ("queries", "rekeyed", "judged" or "commands"); ``timestamp`` in seconds UTC."""

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
    def media_type(self) -> bytes | None:
        """The content type without parameters, in lower case."""
        content_type = self.headers.get(CONTENT_TYPE)
        return content_type.partition(b";")[0].strip().lower() if content_type else None

    @property
    def packed(self) -> bool:
        """Whether its content type is that of a packed record."""
        return self.media_type == _PACKED


def plausible_time(timestamp: float | None, now: float) -> tuple[float, TimeFault | None]:
    """Returns ``timestamp``, or its replacement and the reason; Unix seconds, ``now`` being the worker's.

    A decision that begins in a far future never ends; one that begins in 1970 has ended before any gate sees it.
    """
    if timestamp is None or timestamp < 0:
        return now, "absent"
    if timestamp < _FIRST_KAFKA:
        return now, "past"
    if timestamp > now + AHEAD_SECONDS:
        return now + AHEAD_SECONDS, "future"
    return timestamp, None


def origin_of(record: SourceRecord, partitions: int) -> tuple[int, int]:
    """Returns (partition, offset) of the first arrival of a re-keyed record.

    Raises InvalidRecord where the header is missing or malformed, or does not name one of the ``partitions``: each
    named one takes memory.
    """
    found = _ORIGIN.fullmatch(record.headers.get(ORIGIN, b""))
    if found is None or int(found[1]) >= partitions:
        detail = f"a re-keyed record needs the header {ORIGIN}: partition:offset, of {partitions} partitions"
        raise InvalidRecord("origin", detail)
    return int(found[1]), int(found[2])


def is_repeated(record: SourceRecord, partitions: int, latest: dict[int, int]) -> bool:
    """Returns whether a re-keyed ``record`` has arrived already: the outbox of a former owner may repeat it.

    ``latest``: by partition of first arrival, the last offset of it that has arrived; it is updated. Raises
    InvalidRecord for a re-keyed record without a valid origin.
    """
    if record.source != "rekeyed":
        return False
    partition, offset = origin_of(record, partitions)
    if offset <= latest.get(partition, -1):
        return True
    latest[partition] = offset
    return False


@dataclass(frozen=True, slots=True)
class FetchState:
    """One partition of a source as of the last fetch.

    ``end``: the end of what may be read now, without open transactions. ``position``: the next offset to fetch; it
    passes transaction markers, and aborted records. ``delivered``: the last offset that was delivered, -1 for none.
    ``answered_at``: Unix time of the broker's answer.
    """

    end: int
    position: int
    delivered: int
    answered_at: float

    def behind(self, applied: int) -> int:
        """Returns how many offsets may hold records that are not applied, ``applied`` being the last that is; offsets
        that were read and held no record do not count."""
        all_applied = self.delivered <= applied
        return max(self.end - max(applied + 1, self.position if all_applied else 0), 0)
