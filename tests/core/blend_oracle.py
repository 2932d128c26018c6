"""What rows make up of a query, as obvious as it gets: lists and sorting, float64. Slow on purpose."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.reference.compared import Compared

Vector = NDArray[Any]
_CLOSE = 1e-4


@dataclass
class Blender:
    """What ``rows`` (m, f) add to the row ``base`` (f,) towards the query ``x`` (f,). ``projections`` (m, k) of the
    rows, and of base and query, ``ends`` (2, k), where candidates for a segment are chosen by them. ``doubtful``:
    rounding decides which rows are candidates."""

    compared: Compared
    x: Vector
    rows: Vector
    base: Vector
    projections: Vector | None = None
    ends: Vector | None = None
    doubtful: bool = field(default=False)

    def says(self) -> tuple[float, float, Vector]:
        """Returns ``recombined`` and ``spanned``, and the row that the former adds to."""
        differing, equal, _ = self._differing()
        if len(differing) < 3:
            return 0.0, 0.0, self.base
        spanned, nearest = self.spanned(), self.base
        if self.projections is not None and 8 * equal < len(differing):
            return 0.0, spanned, self.base
        shares = [int((self._same(row) & self._unusual()).sum()) for row in self._alike(differing)]
        if shares and max(shares) > equal:
            self.doubtful |= shares.count(max(shares)) > 1
            self.base = self._alike(differing)[shares.index(max(shares))]
        recombined, base = self.recombined(), self.base
        self.base = nearest
        return recombined, spanned, base

    def recombined(self) -> float:
        probed, equal, lacking = self._differing()
        total, alone = equal + len(lacking), len(lacking)
        if alone < 3:
            return 0.0
        for _ in range(2 if 3 * equal > total else 3):
            found = [lacking[~self._same(row)[lacking]] for row in self._alike(probed)]
            best = min(found, key=len, default=lacking)
            if len(best) >= len(lacking):
                break
            lacking = probed = best
            if not len(lacking):
                break
        return log((alone / total + 0.05) / (len(lacking) / total + 0.05))

    def _differing(self) -> tuple[Vector, int, Vector]:
        """Returns the features in which the base lacks the query's value, in how many others this is unusual, and in
        which of the former."""
        same, unusual = self._same(self.base), self._unusual()
        return np.flatnonzero(~same), int((same & unusual).sum()), np.flatnonzero(~same & unusual)

    def _unusual(self) -> Vector:
        return np.asarray(np.abs(self.x - self.compared.usual) > self.compared.limits)

    def _same(self, row: Vector) -> Vector:
        return np.asarray(np.abs(self.x - row) <= self.compared.limits)

    def _probes(self, among: Vector) -> Vector:
        return np.asarray(among[[(2 * k + 1) * len(among) // 16 for k in range(8)]])

    def _alike(self, among: Vector) -> Vector:
        probes = self._probes(among)
        step = (self.x - self.base)[probes].astype(np.float64)
        gaps = (self.rows - self.base)[:, probes].astype(np.float64)
        equal = np.array([self._same(row)[probes].sum() for row in self.rows])
        marks = np.where(equal > 0, equal + np.minimum(_gain(gaps, step) / (step @ step + 1e-30), 0.999), 0.0)
        return self.rows[self._first(marks)]

    def spanned(self) -> float:
        base, differing = self.base.astype(np.float64), self._differing()[0]
        if self.projections is None:
            probes = self._probes(differing)
            marks = _gain((self.rows - base)[:, probes], (self.x - base)[probes])
        else:
            assert self.ends is not None
            start, end = self.ends
            marks = _gain(self.projections - start, end - start)
        apart = float(((self.x - base)[differing] ** 2).sum())
        most = max((_explained(self.rows[at] - base, self.x - base) for at in self._first(marks)), default=0.0)
        return -0.5 * log(max(1 - most / apart, 0.02**2))

    def _first(self, marks: Vector) -> list[int]:
        """The rows of the four highest ``marks``, those of 0 left out."""
        order = np.argsort(-marks, kind="stable")
        found = [int(at) for at in order[:4] if marks[at] > 0]
        if len(order) > 4 and marks[order[4]] > 0 and len(found) == 4:
            self.doubtful |= bool(marks[order[3]] - marks[order[4]] < _CLOSE * marks[order[3]])
        return found


def _gain(gaps: Vector, step: Vector) -> Vector:
    """How much of the squared ``step`` (k,) the directions ``gaps`` (m, k) explain."""
    dots, lengths = gaps @ step, (gaps**2).sum(axis=1) + 1e-30
    return np.where(dots > 0, dots**2 / lengths, 0.0)


def _explained(gap: Vector, step: Vector) -> float:
    """How much of the squared ``step`` is explained from its start to the end of ``gap`` at most."""
    dot, length = float(gap @ step), float(gap @ gap) + 1e-30
    share = min(max(dot / length, 0.0), 1.0)
    return share * (2 * dot - share * length)
