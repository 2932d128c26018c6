"""How many features a principal's queries have, where neither a setting nor a profile says: as most of their own.

Each slot has a candidate and its votes (Boyer and Moore's majority vote, with a cap): a query of that dimension adds a
vote and is judged, another takes one away and is not. Once no votes are left the next query that differs becomes
the candidate, and the slot's history begins anew. A candidate that came by the k-th change starts with 2^k votes, so
that nobody can change to and fro for long. The majority is the principal's own: a partition sees only a part of a
model's traffic, and a group of accounts could outvote the honest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.core.state.arrays import Array
from detector.core.state.principals import MOST_VOTES


@dataclass(slots=True)
class Vote:
    """The candidate ``dimension`` of one slot, its ``votes`` and how often it changed."""

    dimension: int
    votes: int
    flips: int

    def take(self, dimension: int) -> bool:
        """Count a query that does not change the candidate; whether it is judged."""
        if dimension == self.dimension:
            self.votes = min(self.votes + 1, MOST_VOTES)
            return True
        self.votes -= 1
        return False

    def changes(self, dimension: int) -> bool:
        """Whether a query of ``dimension`` becomes the candidate."""
        return self.votes == 0 and dimension != self.dimension

    def change(self, dimension: int) -> None:
        self.flips = min(self.flips + 1, MOST_VOTES.bit_length() - 1)
        self.dimension, self.votes = dimension, 1 << self.flips


def poll(votes: dict[int, Vote], rows: Array, key: Array, dimension: Array, judged: Array) -> int | None:
    """Count queries of ``key`` and ``dimension`` int64 (n,), at ``rows`` of a segment, in ``votes`` by key, and write
    into ``judged`` bool (n,) which are. Stops at the first row where a candidate would change and gives it, as that is
    done at the start of a segment; None where there is no such row."""
    asked: list[tuple[int, int, int]] = np.stack((rows, key, dimension), axis=1).tolist()
    for at, (row, own, features) in enumerate(asked):
        vote = votes.get(own)
        if vote is None:
            votes[own], judged[at] = Vote(features, 1, 0), True
        elif not vote.changes(features):
            judged[at] = vote.take(features)
        elif row == 0:
            vote.change(features)
            judged[at] = True
        else:
            return row
    return None
