"""Dead letters become one notification per reason and window, however many letters there are. Their offsets are
committed when the window is over: a new owner of the partition counts the window again from its start, and the
notification has the same id.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from detector.contracts.codecs.records import LETTER_HEADER, decode
from detector.contracts.errors import InvalidRecord
from detector.contracts.findings import DeadLetter
from detector.notify.notification import Notification
from detector.runtime.text import rfc3339

UNKNOWN: Final = "unknown"
"""The reason of a letter that does not give one."""

_MOST_COUNTS = 1_000


@dataclass(slots=True)
class _Window:
    """The newest window of a partition, and the offset of its first letter."""

    number: int
    offset: int


class LetterRates:
    """Counts the dead letters of all partitions of one consumer. ``least``: the number of letters of a reason in a
    window of ``seconds`` that gives a notification. ``topic``: their topic, a part of the ids."""

    def __init__(self, topic: str, seconds: float, least: int) -> None:
        self._topic = topic
        self._seconds = seconds
        self._least = least
        self._counts: OrderedDict[tuple[int, str], int] = OrderedDict()
        self._windows: dict[int, _Window] = {}

    def forget(self) -> None:
        """Starts anew, as all partitions are read again from their committed offsets."""
        self._counts.clear()
        self._windows.clear()

    def count(self, partition: int, offset: int, timestamp: float, headers: Mapping[str, bytes]) -> Notification | None:
        """Counts a letter at ``timestamp``, seconds; returns a notification if it is the one that reaches the rate.

        A letter that is older than the window of its partition counts in that window.
        """
        number = int(timestamp // self._seconds)
        window = self._windows.get(partition)
        if window is None or number > window.number:
            window = self._windows[partition] = _Window(number, offset)
        letter = _described(headers)
        key = window.number, letter.reason if letter else UNKNOWN
        seen = self._counts[key] = self._counts.pop(key, 0) + 1
        if len(self._counts) > _MOST_COUNTS:
            self._counts.popitem(last=False)
        return self._notification(*key, letter) if seen == self._least else None

    def resume_offset(self, partition: int) -> int | None:
        """Returns the offset of the first letter in the open window of ``partition``, None without one."""
        window = self._windows.get(partition)
        return window.offset if window else None

    def close(self, now: float) -> None:
        """Closes the windows that ended a window's length before ``now``; called while no letter waits."""
        over = [at for at, window in self._windows.items() if now >= (window.number + 2) * self._seconds]
        for partition in over:
            del self._windows[partition]

    def _notification(self, number: int, reason: str, letter: DeadLetter | None) -> Notification:
        since = number * self._seconds
        name = f"{self._topic}|{self._seconds:g}|{self._least}|{number}|{reason}"
        record = {
            "topic": self._topic,
            "reason": reason,
            "letters_at_least": self._least,
            "window_start": rfc3339(since),
            "window_seconds": self._seconds,
            "latest": letter and {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
        }
        return Notification(
            id=hashlib.blake2b(name.encode(), digest_size=8).hexdigest(),
            revision=1,
            kind="dead-letters",
            occurred_at=since,
            severity="medium",
            title=f"{self._least} or more dead letters with the reason {reason} within {self._seconds:g} seconds",
            record=record,
        )


def _described(headers: Mapping[str, bytes]) -> DeadLetter | None:
    try:
        return decode(DeadLetter, headers.get(LETTER_HEADER))
    except InvalidRecord:
        return None
