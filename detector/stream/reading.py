"""How far the reading of a partition is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """One partition as of the last fetch.

    ``end``: where what may be read ends now; a transaction that is open is not among it. ``position``: what is fetched
    next; it passes transaction markers, and records that were given up. ``delivered``: the last offset that was handed
    over, -1 for none. ``heard_at``: Unix time of the broker's answer.
    """

    end: int
    position: int
    delivered: int
    heard_at: float

    def waiting(self, applied: int) -> int:
        """How many offsets may hold records that are not applied, ``applied`` being the last that is: what was read
        over and held none does not wait."""
        all_applied = self.delivered <= applied
        return max(self.end - max(applied + 1, self.position if all_applied else 0), 0)
