"""A log of any length in bounded memory: of each account its first queries, as many as there is room for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch

ROOM = 2 << 30
"""Bytes that a scan may take for queries, roughly."""
FIRST = 10_000
"""No more queries of an account are kept, however much room there is."""
_COPIES, _OVERHEAD, _TEXT = 3, 400, 60
"""How often the columns of a query are held at once, bytes of what is computed of it, and of a text."""

Account = tuple[str, str, str]
"""Model, version and principal."""


@dataclass(slots=True)
class Sieve:
    """``pieces``: the first ``most`` queries of each account of what was put in, without ids and addresses; ``seen``:
    how many there were of each. ``most`` is halved, for all alike, whenever they would take more than ``room`` bytes.
    """

    room: int = ROOM
    most: int = FIRST
    pieces: list[QueryBatch] = field(default_factory=list)
    seen: dict[Account, int] = field(default_factory=dict)
    _taken: int = 0

    def put(self, batch: QueryBatch) -> None:
        """Keep what is to be kept of ``batch``."""
        kept = self._first(_bare(batch), self.seen)
        self.pieces += kept
        self._taken += sum(map(_bytes, kept))
        while self._taken > self.room and self.most > 1:
            self.most //= 2
            again: dict[Account, int] = {}
            self.pieces = [own for piece in self.pieces for own in self._first(piece, again)]
            self._taken = sum(map(_bytes, self.pieces))

    def _first(self, batch: QueryBatch, seen: dict[Account, int]) -> list[QueryBatch]:
        """What of ``batch`` is among the first queries of its accounts, who had asked ``seen`` before."""
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
        """The accounts of which there were more queries than were kept, with how many there were."""
        return ((own, count) for own, count in self.seen.items() if count > self.most)


def _places(index: NDArray[np.int32]) -> NDArray[np.int64]:
    """int64 (n,): of each row, how many rows before it have the same ``index`` (n,)."""
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
