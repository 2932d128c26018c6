"""Shadows of the vectors that one principal asked before: where each lies on the axes of the reference, and how far
beside them. No two vectors are nearer to each other than their shadows, so that these say quickly which cannot be near.

They are made of what the lists hold when somebody searches there, up to 64 MiB in all; who is seldom asked for loses
them. They change no result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.distances import relative_error
from detector.core.embedding import Embedding
from detector.core.vectors import OFFSET_BITS, VectorLists

MOST_BYTES = 64 << 20

_LEAST_ELEMENTS = 1 << 14
"""Features that a principal's vectors have in all, from which on shadows pay."""
_START = 64
_IDLE = 64
"""Whose shadows were not used in so many searches makes room."""


class Shadow:
    """Of ``count`` vectors: ``columns`` float32 (k + 3, capacity), -2 times their points, -2 times how far beside, the
    squares of all these less what rounding may have added to a product with them, and 1; and the ``locations`` int64
    (capacity,) of the vectors."""

    def __init__(self, axes: int) -> None:
        self.columns = np.ones((axes + 3, _START), np.float32)
        self.locations = np.empty(_START, np.int64)
        self.count = 0
        self.used = 0

    @property
    def nbytes(self) -> int:
        return self.columns.nbytes + self.locations.nbytes

    def append(self, columns: NDArray[np.float32], locations: Array) -> None:
        """More vectors: ``columns`` (k + 2, n), all but the last."""
        start, self.count = self.count, self.count + len(locations)
        if self.count > len(self.locations):
            grown = max(self.count, 2 * len(self.locations))
            columns_now, locations_now = self.columns[:, :start], self.locations[:start]
            self.columns = np.ones((len(self.columns), grown), np.float32)
            self.locations = np.empty(grown, np.int64)
            self.columns[:, :start], self.locations[:start] = columns_now, locations_now
        self.columns[:-1, start : self.count] = columns
        self.locations[start : self.count] = locations


class Shadows:
    """Of all principals whose vectors are in ``store``, by slot."""

    def __init__(self, store: VectorLists) -> None:
        self._store = store
        self._of: dict[int, Shadow] = {}
        self._done: NDArray[np.int64] = np.zeros(0, np.int64)
        self._searches = 0
        self.nbytes = 0

    def of(self, slots: Array, lists: Array, embedding: Embedding) -> list[Shadow | None]:
        """For each of ``slots``, whose vectors are in its row of ``lists`` (n, p; -1 for none), the shadows of them
        all; None where there are too few vectors or there is no room."""
        self._searches += 1
        if self._searches % _IDLE == 0 and self.nbytes > MOST_BYTES:
            self._make_room()
        missing = len(self._store.sizes) - len(self._done)
        self._done = np.concatenate((self._done, np.zeros(missing, np.int64)))
        sizes = np.where(lists >= 0, self._store.sizes[lists], 0)
        many = (sizes.sum(axis=1) * self._store.dimension >= _LEAST_ELEMENTS).tolist()
        found = [self._entry(slot, embedding) if own else None for slot, own in zip(slots.tolist(), many, strict=True)]
        shaded = np.array([own is not None for own in found])
        at, column = np.nonzero((sizes > self._done[lists]) & shaded[:, None])
        if len(at):
            self._bring_up(found, at, lists[at, column], embedding)
        return found

    def forget(self, slots: Array, lists: Array) -> None:
        """Drop the shadows of ``slots``, whose vectors are in ``lists``."""
        for slot in slots.tolist():
            own = self._of.pop(slot, None)
            self.nbytes -= own.nbytes if own is not None else 0
        self._done[lists[lists < len(self._done)]] = 0

    def _entry(self, slot: int, embedding: Embedding) -> Shadow | None:
        own = self._of.get(slot)
        if own is None:
            if self.nbytes > MOST_BYTES:
                return None
            own = self._of[slot] = Shadow(embedding.axes.shape[1])
            self.nbytes += own.nbytes
        own.used = self._searches
        return own

    def _bring_up(self, found: list[Shadow | None], at: Array, lists: Array, embedding: Embedding) -> None:
        """Append what ``lists``, of those ``found`` at ``at`` (ascending), hold beyond what was done."""
        fresh = self._store.sizes[lists] - self._done[lists]
        locations = self._store.locations_from(lists, self._done[lists])
        columns = embedding.shadows(self._store.gather(locations))
        columns[:-1] *= -2
        columns[-1] *= 1 - 2 * relative_error(self._store.dimension)[0]
        self._done[lists] = self._store.sizes[lists]
        owner = np.repeat(at, fresh)
        owners, starts = np.unique(owner, return_index=True)
        for own, start, end in zip(owners.tolist(), starts.tolist(), [*starts[1:].tolist(), len(owner)], strict=True):
            shadow = found[own]
            assert shadow is not None
            self.nbytes -= shadow.nbytes
            shadow.append(columns[:, start:end], locations[start:end])
            self.nbytes += shadow.nbytes

    def _make_room(self) -> None:
        idle = [slot for slot, own in self._of.items() if own.used < self._searches - _IDLE]
        for slot in idle:
            held = self._of[slot].locations[: self._of[slot].count]
            self.forget(np.array([slot]), np.unique(held >> OFFSET_BITS))
