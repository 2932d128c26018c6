"""The reading position of a partition."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """One partition as of the last fetch.

    ``end``: the end of what may be read now, without open transactions. ``position``: the next offset to fetch; it
    passes transaction markers, and aborted records. ``delivered``: the last offset that was delivered, -1 for none.
    ``heard_at``: Unix time of the broker's answer.
    """

    end: int
    position: int
    delivered: int
    heard_at: float

    def waiting(self, applied: int) -> int:
        """Returns how many offsets may hold records that are not applied, ``applied`` being the last that is; offsets
        that were read and held no record do not count."""
        all_applied = self.delivered <= applied
        return max(self.end - max(applied + 1, self.position if all_applied else 0), 0)
