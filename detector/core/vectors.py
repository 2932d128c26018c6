"""Vectors in FAISS inverted lists that we choose ourselves: the quantizer is never asked.

FAISS scans lists by direct differences. Its flat index would switch to |a|^2 + |b|^2 - 2ab for large batches, which
turns near duplicates into duplicates and would let verdicts depend on the batch size; the threshold for that is set out
of reach here for every flat index of this process.
"""

from __future__ import annotations

from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.columns import Ids

faiss: Any = typed_faiss
"""The type stubs of FAISS lack half of what is used here."""

faiss.cvar.distance_compute_blas_threshold = 1 << 30
faiss.omp_set_num_threads(1)

_EMPTY = 0
"""A list that stays empty, so that it can stand in for any other."""
_START = 64
OFFSET_BITS = 32
"""A location is the number of the list, then this many bits of offset in it."""
_NO_SQUARES = np.empty(0, np.float32)
NEAREST = 4
"""The number of candidates that a search returns."""


class VectorLists:
    """float32 vectors of one dimension in numbered lists; if they are ``noted``, each has a note, a float32 number."""

    def __init__(self, dimension: int, noted: bool = False) -> None:
        self.dimension = dimension
        self._notes = VectorLists(1) if noted else None
        self.sizes: NDArray[np.int64] = np.zeros(_START, dtype=np.int64)
        self._squares: dict[int, NDArray[np.float32]] = {}
        self._views: dict[int, NDArray[np.float32]] = {}
        self._ids = Ids()
        self._ids.take()  # the list that stays empty
        self._quantizer = faiss.IndexFlatL2(dimension)
        self._index = self._new_index(_START)
        self._lists = faiss.downcast_InvertedLists(self._index.invlists)
        self._reader = self._new_index(_START)
        self._reader.replace_invlists(self._index.invlists, False)
        self._reader.direct_map.type = faiss.DirectMap.Array

    @property
    def nbytes(self) -> int:
        """The bytes of vectors with their FAISS ids, about 100 bytes a list, and of cached norms and views."""
        squares = sum(squares.nbytes + 200 for squares in self._squares.values()) + 200 * len(self._views)
        notes = self._notes.nbytes if self._notes is not None else 0
        return int(self.sizes.sum()) * (4 * self.dimension + 8) + 108 * len(self.sizes) + squares + notes

    @property
    def unused(self) -> bool:
        """Whether no list is allocated."""
        return self._ids.held == 1

    def allocate(self, count: int) -> Array:
        """Returns int32 (count,): numbers of empty lists."""
        lists = self._ids.take_many(count)
        self._reserve(self._ids.size)
        if self._notes is not None:
            self._notes.allocate(count)
        return np.array(lists, dtype=np.int32)

    def release(self, lists: Array) -> None:
        """Releases lists and their memory."""
        if not len(lists):
            return
        kept = np.arange(len(self.sizes), dtype=np.int64)
        kept[lists] = _EMPTY
        self._lists.permute_invlists(faiss.swig_ptr(kept))
        self._forget(lists)
        self._ids.give_back(lists.tolist())
        if self._notes is not None:
            self._notes.release(lists)

    def empty(self, lists: Array) -> None:
        """Drops all vectors of ``lists``, which stay allocated."""
        for number in lists[self.sizes[lists] > 0].tolist():
            self._lists.resize(number, 0)
        self._forget(lists)
        if self._notes is not None:
            self._notes.empty(lists)

    def append(self, lists: Array, vectors: NDArray[np.float32], notes: NDArray[np.float32] | None = None) -> None:
        """Adds ``vectors`` (n, d), the i-th to ``lists[i]``; with ``notes`` (n,) if they are noted."""
        lists = np.ascontiguousarray(lists, dtype=np.int64)
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._index.add_core(len(lists), faiss.swig_ptr(vectors), None, faiss.swig_ptr(lists))
        self.sizes += np.bincount(lists, minlength=len(self.sizes))
        if self._notes is not None:
            assert notes is not None
            self._notes.append(lists, notes[:, None])

    def next_locations(self, lists: Array) -> Array:
        """Returns int64 (n,): the locations that vectors appended to ``lists`` (n,) will have."""
        order = np.argsort(lists, kind="stable")
        ordered = lists[order]
        offset = np.empty(len(lists), np.int64)
        offset[order] = np.arange(len(lists)) - np.searchsorted(ordered, ordered)
        locations: Array = (lists.astype(np.int64) << OFFSET_BITS) | (offset + self.sizes[lists])
        return locations

    def nearest(self, queries: NDArray[np.float32], lists: Array) -> tuple[Array, Array]:
        """Returns, for each query, over the lists in its row of ``lists`` (n, p; -1 for none), float32 (n, 4) squared
        distances as FAISS rounds them, ascending, and int64 (n, 4) locations, -1 where there are no more."""
        count, probes = lists.shape
        lists = np.ascontiguousarray(lists, dtype=np.int64)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        squared = np.empty((count, NEAREST), np.float32)
        locations = np.empty((count, NEAREST), np.int64)
        unused = np.zeros((count, probes), np.float32)
        self._index.nprobe = probes
        pointer = faiss.swig_ptr
        self._index.search_preassigned_c(
            count,
            pointer(queries),
            NEAREST,
            pointer(lists),
            pointer(unused),
            pointer(squared),
            pointer(locations),
            True,
            None,
        )
        return squared, locations

    def gather(self, locations: Array) -> NDArray[np.float32]:
        """Returns float32 (n, d): the vectors at ``locations``."""
        count = len(locations)
        faiss.copy_array_to_vector(np.ascontiguousarray(locations, dtype=np.int64), self._reader.direct_map.array)
        vectors = np.empty((count, self.dimension), np.float32)
        keys = np.arange(count, dtype=np.int64)
        self._reader.ntotal = count
        self._reader.reconstruct_batch_c(count, faiss.swig_ptr(keys), faiss.swig_ptr(vectors))
        return vectors

    def notes(self, locations: Array) -> NDArray[np.float32]:
        """Returns float32 (n,): the notes of the vectors at ``locations``; NaN where there are none."""
        if self._notes is None:
            return np.full(len(locations), np.nan, np.float32)
        return self._notes.gather(locations)[:, 0]

    def view(self, number: int) -> NDArray[np.float32]:
        """Returns float32 (m, d): one list without a copy, valid until the list next changes."""
        count = int(self.sizes[number])
        if count == 0:
            return np.empty((0, self.dimension), np.float32)
        known = self._views.get(number)
        if known is None or len(known) != count:
            codes = faiss.rev_swig_ptr(self._lists.get_codes(number), count * self.dimension * 4)
            known = self._views[number] = codes.view(np.float32).reshape(count, self.dimension)
        return known

    def squares(self, number: int, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns float32 (m,): the squared norms of ``vectors``, the view of list ``number``, inf where too large;
        cached until the list is emptied."""
        known = self._squares.get(number, _NO_SQUARES)
        if len(known) < len(vectors):
            fresh = vectors[len(known) :]
            known = np.concatenate((known, np.einsum("ij,ij->i", fresh, fresh)))
            self._squares[number] = known
        return known

    def locations(self, lists: Array) -> tuple[Array, Array]:
        """Returns every vector of ``lists``: (location int64, position in ``lists`` int64)."""
        count = self.sizes[lists]
        offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        locations: Array = np.repeat(lists.astype(np.int64) << OFFSET_BITS, count) | offset
        return locations, np.repeat(np.arange(len(lists)), count)

    def _forget(self, lists: Array) -> None:
        self.sizes[lists] = 0
        for number in lists.tolist():
            self._squares.pop(number, None)
            self._views.pop(number, None)

    def _new_index(self, lists: int) -> Any:
        index = faiss.IndexIVFFlat(self._quantizer, self.dimension, lists, faiss.METRIC_L2)
        index.is_trained = True
        return index

    def _reserve(self, lists: int) -> None:
        """Makes room for more lists. FAISS has no call for it, but makes as many lists as ``nlist`` says when it
        permutes them: old ones keep their numbers, the empty one stands in for the new."""
        old = len(self.sizes)
        if lists <= old:
            return
        new = max(lists, 2 * old)
        kept = np.full(new, _EMPTY, dtype=np.int64)
        kept[:old] = np.arange(old)
        self._lists.nlist = new
        self._lists.permute_invlists(faiss.swig_ptr(kept))
        self._index.nlist = self._reader.nlist = new
        self.sizes = np.concatenate((self.sizes, np.zeros(new - old, np.int64)))
