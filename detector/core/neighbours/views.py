"""Shared views: what signals need to know about the rows of a step from vectors that the engine stores once."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from detector.core.neighbours.growing import Recompute, SearchResults, Thresholds
from detector.core.neighbours.history import History
from detector.core.profile.projection import Placed
from detector.core.profile.reference import Neighbours, Reference, ReferenceIndex
from detector.core.state.rows import StepRows


class Views:
    """Views of a step. Each is computed once, on first use. ``repeats`` bool (n,): queries equal to an earlier one.
    ``scores``: those of the earlier signals in the registry for each row, float64 (n,)."""

    def __init__(self, rows: StepRows, history: History, reference: ReferenceIndex | None) -> None:
        self._rows = rows
        self._history = history
        self._reference = reference
        self._own: SearchResults | None = None
        self.repeats: NDArray[np.bool_] = np.zeros(len(rows), np.bool_)
        self.scores: dict[str, NDArray[np.float64]] = {}

    def grow(self, thresholds: Thresholds, recompute: Recompute | None) -> SearchResults:
        """Adds rows to the growing sets and returns what was found (``own``); called by the signal that owns the
        thresholds, before any other asks."""
        embedding, placed = (self.reference.embedding, self.placed) if self.has_reference else (None, None)
        self._own = self._history.observe(self._rows, thresholds, embedding, placed, recompute)
        return self._own

    @property
    def own(self) -> SearchResults:
        """The nearest of the principal's earlier queries that are in a growing set, of the same class and, for rows
        that have a reference, of any class."""
        assert self._own is not None, "the registry puts the owner of the growing sets before those who ask for them"
        return self._own

    @property
    def grown(self) -> NDArray[np.float64]:
        """float64 (n,): distance to the growing set of the row's own pool as of that row, inf where it was empty."""
        return self.own.grown

    @cached_property
    def placed(self) -> Placed:
        """The projection of the rows on the reference; only for rows that have one."""
        return self.reference.embedding.place(self._rows.features)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The nearest reference rows; only for those that have a reference."""
        assert self._reference is not None
        return self._reference.nearest(self.placed)

    @property
    def has_reference(self) -> bool:
        """Whether there is a profile for this model version with features of this dimension."""
        return self._reference is not None and self._reference.reference.dimension == self._rows.features.shape[1]

    @property
    def reference(self) -> Reference:
        assert self._reference is not None
        return self._reference.reference
