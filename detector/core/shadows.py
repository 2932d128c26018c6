"""Shadows: PCA sketches of the vectors that a principal asked before.

A shadow holds the projections of the vectors on the axes of the reference, their residual norms, and the last bits of
their labels. No two vectors are nearer to each other than their shadows, which gives a quick lower bound of distances.

Shadows are built when a principal with many vectors is searched, and extended as queries come in; up to 64 MiB per
reference. The least recently used ones are dropped. They change no result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.distances import relative_error
from detector.core.embedding import Embedding, Placed
from detector.core.ranges import FARTHEST
from detector.core.vectors import OFFSET_BITS

MOST_BYTES = 64 << 20
_FREE = 0.25
"""No shadows are built below this share of free space, so that principals do not keep evicting each other."""
BITS = 8
"""Bits of the label; there may be more labels than these distinguish."""

_START = 64
_IDLE = 64
"""Shadows that were not used in this many searches may be dropped."""


class Shadow:
    """The shadow of ``count`` vectors: ``columns`` float32 (bits + 1 + k + 2, capacity), the bits of their labels as 1
    and -1; the sum of squares of the following, less what rounding may have added to a product with it; -2 times their
    points on the axes and residual norms; and 1. ``locations`` int64 (capacity,) of the vectors. ``farthest``: the
    largest sum of squares."""

    def __init__(self, height: int) -> None:
        self.columns = np.empty((height, _START), np.float32)
        self.locations = np.empty(_START, np.int64)
        self.count = 0
        self.farthest = 0.0
        self.used = 0

    @property
    def nbytes(self) -> int:
        return self.columns.nbytes + self.locations.nbytes

    def append(self, columns: NDArray[np.float32], locations: Array) -> None:
        """Adds vectors, by their ``columns`` (bits + 1 + k + 2, n)."""
        start, self.count = self.count, self.count + len(locations)
        if self.count > len(self.locations):
            self._grow(start, max(self.count, 2 * len(self.locations)))
        self.columns[:, start : self.count] = columns
        self.locations[start : self.count] = locations
        self.farthest = max(self.farthest, float(columns[BITS].max()))

    def _grow(self, held: int, capacity: int) -> None:
        columns, locations = self.columns[:, :held], self.locations[:held]
        self.columns = np.empty((len(self.columns), capacity), np.float32)
        self.locations = np.empty(capacity, np.int64)
        self.columns[:, :held], self.locations[:held] = columns, locations


class Shadows:
    """The shadows of all principals whose vectors are compared with the reference of ``embedding``, by slot."""

    def __init__(self, embedding: Embedding) -> None:
        self.dimension = embedding.dimension
        self.nbytes = 0
        self._embedding = embedding
        self._of: dict[int, Shadow] = {}
        self._searches = 0

    def of(self, slots: Array) -> list[Shadow | None]:
        """Returns the shadows of each of ``slots``, or None."""
        self._searches += 1
        if self._searches % _IDLE == 0 and self.full:
            self._make_room()
        found = [self._of.get(slot) for slot in slots.tolist()]
        for own in found:
            if own is not None:
                own.used = self._searches
        return found

    @property
    def full(self) -> bool:
        """Whether there is no room for more shadows."""
        return self.nbytes > (1 - _FREE) * MOST_BYTES

    def make(self, slot: int, columns: NDArray[np.float32], locations: Array) -> Shadow:
        """Builds the shadows of ``slot`` from all its vectors, by their ``columns``."""
        own = self._of[slot] = Shadow(len(columns))
        own.used = self._searches
        own.append(columns, locations)
        self.nbytes += own.nbytes
        return own

    def append(self, slots: Array, columns: NDArray[np.float32], locations: Array) -> None:
        """Extends shadows by more vectors of ``slots`` (n,), by their ``columns`` (bits + 1 + k + 2, n), where the slot
        has shadows."""
        owners, order = np.unique(slots), np.argsort(slots, kind="stable")
        ordered, locations = columns[:, order], locations[order]
        edges = np.searchsorted(slots[order], owners).tolist()
        for slot, start, end in zip(owners.tolist(), edges, [*edges[1:], len(order)], strict=True):
            own = self._of.get(slot)
            if own is not None:
                self.nbytes -= own.nbytes
                own.append(ordered[:, start:end], locations[start:end])
                self.nbytes += own.nbytes
        self._keep_within()

    def drop(self, slot: int, lists: Array) -> None:
        """Drops the columns of vectors of ``slot`` that are in ``lists``."""
        own = self._of.get(slot)
        if own is not None:
            kept = ~np.isin(own.locations[: own.count] >> OFFSET_BITS, lists)
            self.forget(np.array([slot]))
            if kept.any():
                self.make(slot, own.columns[:, : own.count][:, kept], own.locations[: own.count][kept])

    def forget(self, slots: Array) -> None:
        """Drops the shadows of ``slots``."""
        for slot in slots.tolist():
            own = self._of.pop(slot, None)
            self.nbytes -= own.nbytes if own is not None else 0

    @staticmethod
    def fits(vectors: NDArray[np.float32]) -> bool:
        """Returns whether squares of ``vectors`` (n, d) are small enough to be distinguished in single precision."""
        return max(float(vectors.max(initial=0)), -float(vectors.min(initial=0))) <= FARTHEST

    def columns(self, labels: Array, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns float32 (bits + 1 + k + 2, n): the columns of ``vectors`` (n, d), which the model gave ``labels``."""
        return columns_of(self._embedding.place(vectors), labels, self.dimension)

    def _keep_within(self) -> None:
        if self.nbytes <= MOST_BYTES:
            return
        for slot in sorted(self._of, key=lambda slot: self._of[slot].used):
            if self.nbytes <= MOST_BYTES:
                break
            self.forget(np.array([slot]))

    def _make_room(self) -> None:
        idle = [slot for slot, own in self._of.items() if own.used < self._searches - _IDLE]
        self.forget(np.array(idle, np.int64))


def columns_of(placed: Placed, labels: Array, dimension: int) -> NDArray[np.float32]:
    """Returns float32 (bits + 1 + k + 2, n), see ``Shadow``, of vectors of ``dimension`` features."""
    columns = np.empty((BITS + placed.points.shape[1] + 3, len(labels)), np.float32)
    columns[:BITS] = signs(labels).T
    columns[BITS] = (placed.squares + placed.beside**2) * (1 - 2 * relative_error(dimension)[0])
    columns[BITS + 1 : -2] = placed.points.T
    columns[-2] = placed.beside
    columns[BITS + 1 : -1] *= -2
    columns[-1] = 1
    return columns


def signs(labels: Array) -> NDArray[np.float32]:
    """Returns float32 (n, bits): the lowest bits of ``labels``, 1 for 1 and -1 for 0."""
    bits = np.unpackbits((labels & 0xFF).astype(np.uint8)[:, None], axis=1).astype(np.float32)
    bits *= 2
    bits -= 1
    return bits
