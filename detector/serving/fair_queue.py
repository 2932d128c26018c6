"""Bounded queue with max-min fair shares per principal: a flood by one principal drops only its own rows."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from detector.serving.forks import renew_in_children


class Waiting(Protocol):
    """What can be queued: ``queries`` rows of one principal that take ``nbytes`` bytes."""

    @property
    def principal(self) -> str: ...

    @property
    def queries(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=Waiting)


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
            taken: list[T] = []
            limit = self._charge - max_bytes * self._max_queries
            self._heaviest = None
            while self._lanes and self._charge > limit:
                principal, lane = next(iter(self._lanes.items()))
                taken.append(lane.items.popleft())
                self._discharge(lane, taken[-1])
                del self._lanes[principal]
                if lane.items:
                    self._lanes[principal] = lane
            return taken

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
        """The principal with the largest charge, by a heap that is built only while the queue is full.

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
