"""Bounded buffers of what waits to be sent: queries, with max-min fair shares per principal, and counts of missing
queries.

A flood by one principal drops only its own rows.
"""

from __future__ import annotations

import heapq
import operator
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from detector.contracts.codecs.limits import MOST_COUNTED, is_word
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import Count, CountKind
from detector.serving.isolation import renew_in_children


class Queueable(Protocol):
    """A queue entry: ``queries`` rows of one principal that take ``nbytes`` bytes."""

    @property
    def principal(self) -> str: ...

    @property
    def queries(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=Queueable)


@dataclass(slots=True)
class _Lane(Generic[T]):
    """The waiting items of one principal, oldest first, and their charge."""

    items: deque[T] = field(default_factory=deque)
    charge: int = 0


class FairQueue(Generic[T]):
    """At most ``max_queries`` rows and ``max_bytes`` bytes; safe for any number of threads.

    A row is charged its share of either bound, whichever is larger, so that one budget bounds both. When the budget is
    spent, the newest item of the principal with the largest charge is dropped: shares become max-min fair, and a flood
    keeps its beginning.
    """

    def __init__(self, max_queries: int, max_bytes: int) -> None:
        self._max_queries = max_queries
        self._max_bytes = max_bytes
        self._budget = max_queries * max_bytes
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Starts empty in a forked process: the parent sends what waits here."""
        self._lock = threading.Lock()
        self._empty()

    def _empty(self) -> None:
        self._lanes: dict[str, _Lane[T]] = {}
        self._charge = 0
        self._queries = 0
        self._heaviest: list[tuple[int, str]] | None = None

    def __len__(self) -> int:
        """Returns the number of waiting rows."""
        return self._queries

    def put(self, item: T) -> list[T]:
        """Queues ``item``. Returns what was dropped for it, which may be ``item`` itself."""
        with self._lock:
            self._append(item)
            dropped = []
            while self._charge > self._budget:
                dropped.append(self._drop())
            return dropped

    def take(self, max_bytes: int) -> list[T]:
        """Returns the oldest item of each principal in turn, until ``max_bytes`` are charged or nothing waits."""
        with self._lock:
            items: list[T] = []
            limit = self._charge - max_bytes * self._max_queries
            self._heaviest = None
            while self._lanes and self._charge > limit:
                principal, lane = next(iter(self._lanes.items()))
                items.append(lane.items.popleft())
                self._discharge(lane, items[-1])
                del self._lanes[principal]
                if lane.items:
                    self._lanes[principal] = lane
            return items

    def clear(self) -> list[T]:
        """Returns everything that waits, and empties the queue."""
        with self._lock:
            left = [item for lane in self._lanes.values() for item in lane.items]
            self._empty()
            return left

    def _charge_of(self, item: T) -> int:
        return max(item.nbytes * self._max_queries, item.queries * self._max_bytes)

    def _append(self, item: T) -> None:
        lane = self._lanes.get(item.principal)
        if lane is None:
            lane = self._lanes[item.principal] = _Lane()
        lane.items.append(item)
        charge = self._charge_of(item)
        lane.charge += charge
        self._charge += charge
        self._queries += item.queries
        if self._heaviest is not None:
            heapq.heappush(self._heaviest, (-lane.charge, item.principal))

    def _drop(self) -> T:
        principal = self._find_heaviest()
        lane = self._lanes[principal]
        item = lane.items.pop()
        self._discharge(lane, item)
        if not lane.items:
            del self._lanes[principal]
        return item

    def _discharge(self, lane: _Lane[T], item: T) -> None:
        charge = self._charge_of(item)
        lane.charge -= charge
        self._charge -= charge
        self._queries -= item.queries

    def _find_heaviest(self) -> str:
        """Returns the principal with the largest charge, by a heap that is built only while the queue is full.

        Entries are corrected when they come to the top: a lane's entry is never below its charge.
        """
        heap = self._heaviest
        if heap is None or len(heap) > 2 * len(self._lanes) + 1024:
            heap = self._heaviest = [(-lane.charge, principal) for principal, lane in self._lanes.items()]
            heapq.heapify(heap)
        while True:
            recorded, principal = heap[0]
            lane = self._lanes.get(principal)
            if lane is None:
                heapq.heappop(heap)
            elif lane.charge != -recorded:
                heapq.heapreplace(heap, (-lane.charge, principal))
            else:
                return principal


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

    def add(self, *counts: Count) -> None:
        for count in counts:
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


def as_count(queries: Any) -> int:
    """Returns ``queries`` as an int of one or more. Raises InvalidRecord, or TypeError for what is no integer."""
    number = operator.index(queries)
    if not 0 < number < MOST_COUNTED:
        raise InvalidRecord("counts", f"{number} queries cannot be counted; say one or more")
    return number


def as_reason(reason: Any) -> str:
    """Returns ``reason`` if it is a word of ``a-z`` and ``-``; else ``unknown``."""
    return reason if isinstance(reason, str) and reason and is_word(reason) else "unknown"
