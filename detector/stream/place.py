"""Fencing rules for replaying a partition's state log: which records count, and in which order."""

from __future__ import annotations

from detector.contracts.errors import OwnershipLost, StateLogHole
from detector.stream.record import Part, Position, StateRecord


class Place:
    """The last position that counts: ``fence`` and ``sequence``. ``live``: this worker writes there itself.

    ``stale_records``: the number of late records of former owners.
    """

    def __init__(self, partition: int) -> None:
        self.fence = -1
        self.sequence = 0
        self.live = False
        self.stale_records = 0
        self._partition = partition

    @property
    def position(self) -> Position:
        return self.fence, self.sequence

    def admits(self, offset: int, record: StateRecord | Part) -> bool:
        """Returns whether ``record``, read at ``offset`` of the log, is the next to apply; if so, moves on to it.

        Raises StateLogHole where one is missing before it, OwnershipLost for a newer fence than our own while live.
        """
        if record.kind == "fence":
            self._pass_fence(offset)
            return False
        if self.fence < 0:
            self._start_at_cut(record)
        elif record.fence < self.fence:
            self.stale_records += 1
            return False
        elif not self._is_next(record):
            return False
        self.sequence = record.sequence
        return True

    def take(self, fence: int) -> None:
        """Goes live behind our own ``fence``, which recovery must have read. Raises OwnershipLost."""
        if fence != self.fence:
            raise OwnershipLost(
                f"partition {self._partition}: recovered through fence {self.fence}, our own is {fence}"
            )
        self.live = True

    def advance(self) -> Position:
        """Returns the position of the next record to write."""
        self.sequence += 1
        return self.position

    def extend(self, parts: int) -> None:
        """Notes that the record at our position has ``parts`` further parts."""
        self.sequence += parts

    def _pass_fence(self, offset: int) -> None:
        if offset <= self.fence:
            return
        if self.live:
            raise OwnershipLost(
                f"partition {self._partition}: another worker's fence stands at {offset}, ours at {self.fence}"
            )
        self.fence, self.sequence = offset, 0

    def _start_at_cut(self, record: StateRecord | Part) -> None:
        first_part = isinstance(record, Part) and record.of == "chunk" and record.number == 0
        if record.kind != "chunk" and not first_part:
            raise StateLogHole(
                f"partition {self._partition}: the state log begins with a {record.kind} record; it was cut elsewhere "
                "than at a checkpoint (is retention unlimited on it?)"
            )
        self.fence = record.fence

    def _is_next(self, record: StateRecord | Part) -> bool:
        if record.fence > self.fence or record.sequence > self.sequence + 1:
            raise StateLogHole(
                f"partition {self._partition}: read {record.position} of the state log after {self.position}"
            )
        return record.sequence == self.sequence + 1
