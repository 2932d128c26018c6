"""Counts of missing queries, by principal: dropped, refused or not judged, until they are sent."""

from __future__ import annotations

import operator
import threading
from typing import Any

from detector.contracts.codecs.limits import MOST_COUNTED, is_word
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import Count, CountKind
from detector.serving.forks import renew_in_children


class Tallies:
    """Counts of queries by model, principal, kind and reason, for at most ``max_entries`` of these.

    Further ones are counted in ``unattributed``.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Starts empty in a forked process: the parent sends these counts."""
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str, CountKind, str], tuple[int, float]] = {}
        self.unattributed = 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, count: Count) -> None:
        key = (count.model, count.principal, count.kind, count.reason)
        with self._lock:
            queries, latest = self._counts.get(key, (0, count.occurred_at))
            if queries or len(self._counts) < self._max_entries:
                queries = min(queries + count.queries, MOST_COUNTED - 1)
                self._counts[key] = (queries, max(latest, count.occurred_at))
            else:
                self.unattributed += count.queries

    def add_unattributed(self, queries: int) -> None:
        """Counts queries whose principal is unknown."""
        with self._lock:
            self.unattributed += queries

    def take(self) -> list[Count]:
        """Returns all counts, each with the time of its latest query, and drops them."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return [
            Count(model, principal, kind, queries, latest, reason)
            for (model, principal, kind, reason), (queries, latest) in counts.items()
        ]


def whole(queries: Any) -> int:
    """Returns ``queries`` as an int of one or more. Raises InvalidRecord, or TypeError for what is no integer."""
    number = operator.index(queries)
    if not 0 < number < MOST_COUNTED:
        raise InvalidRecord("counts", f"{number} queries cannot be counted; say one or more")
    return number


def word(reason: Any) -> str:
    """Returns ``reason`` if it is a word of ``a-z`` and ``-``; else ``unknown``."""
    return reason if isinstance(reason, str) and reason and is_word(reason) else "unknown"
