"""Keeps the first queries of each account of a log, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch

ROOM = 2 << 30
"""Approximate memory limit for queries, bytes."""
FIRST = 10_000
"""Maximum number of queries kept per account."""
_COPIES, _OVERHEAD, _TEXT = 3, 400, 60
"""Copies of the columns in memory at once; bytes of derived data per query; bytes per text."""

Account = tuple[str, str, str]
"""Model, version and principal."""


@dataclass(slots=True)
class Sieve:
    """``pieces``: the first ``most`` queries of each account, without ids and addresses. ``seen``: the number of
    queries of each account. ``most`` is halved whenever the pieces take more than ``room`` bytes."""

    room: int = ROOM
    most: int = FIRST
    pieces: list[QueryBatch] = field(default_factory=list)
    seen: dict[Account, int] = field(default_factory=dict)
    _taken: int = 0

    def put(self, batch: QueryBatch) -> None:
        """Adds the queries of ``batch`` that are among the first of their accounts."""
        kept = self._first(_bare(batch), self.seen)
        self.pieces += kept
        self._taken += sum(map(_bytes, kept))
        while self._taken > self.room and self.most > 1:
            self.most //= 2
            again: dict[Account, int] = {}
            self.pieces = [own for piece in self.pieces for own in self._first(piece, again)]
            self._taken = sum(map(_bytes, self.pieces))

    def _first(self, batch: QueryBatch, seen: dict[Account, int]) -> list[QueryBatch]:
        """Returns the queries of ``batch`` among the first of their accounts; ``seen``: the number before, updated."""
        accounts = [(batch.model, batch.model_version, name) for name in batch.principals]
        before = np.array([seen.get(own, 0) for own in accounts], np.int64)
        rows = np.flatnonzero(before[batch.principal_index] + _places(batch.principal_index) < self.most)
        counts = np.bincount(batch.principal_index, minlength=len(accounts)).tolist()
        for own, count in zip(accounts, counts, strict=True):
            seen[own] = seen.get(own, 0) + count
        if len(rows) == len(batch):
            return [batch]
        return [take(batch, rows)] if len(rows) else []

    def cut(self) -> Iterator[tuple[Account, int]]:
        """Returns the accounts with more queries than were kept, and their number of queries."""
        return ((own, count) for own, count in self.seen.items() if count > self.most)


def _places(index: NDArray[np.int32]) -> NDArray[np.int64]:
    """Returns int64 (n,): for each row, the number of earlier rows with the same ``index`` (n,)."""
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    places = np.empty(len(index), np.int64)
    places[order] = np.arange(len(index)) - np.repeat(starts, np.diff(np.append(starts, len(index))))
    return places


def _bare(batch: QueryBatch) -> QueryBatch:
    none = {"served_mode": None, "network_prefix": None, "organisation": None, "user_agent_hash": None}
    return replace(batch, event_ids=[""] * len(batch), **none)  # type: ignore[arg-type]


def _bytes(batch: QueryBatch) -> int:
    texts = sum(int(own.shape[1]) for own in (batch.texts, batch.output_names) if own is not None)
    numbers = batch.dimension + int(batch.outputs.shape[1])
    return len(batch) * (4 * _COPIES * numbers + _TEXT * texts + _OVERHEAD)
