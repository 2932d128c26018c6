"""Who queries: honest principals around class centres, and thieves who walk as Jacobian augmentation does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch

MODEL, MODEL_VERSION = "digits", "1"
_CLASSES = 4
_STEP = 0.5
_SEEDS = 40


class Population:
    """A seeded, endless sequence of queries of ``dimension`` features; the same seed and draws give the same ones.

    ``honest`` principals query from the first on; a thief joins them after every ``queries_to_next_thief`` queries,
    ``thieves`` in all, each as busy as three honest ones. From the first such pause on, a ``ring`` of accounts walks as
    one thief, each of them half as busy as an honest one.
    """

    def __init__(
        self,
        seed: int,
        honest: int = 48,
        thieves: int = 40,
        queries_to_next_thief: int = 1_500,
        dimension: int = 16,
        ring: int = 0,
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._centres = self._random.normal(0.0, 3.0, (_CLASSES, dimension))
        self._honest = honest
        self._pause = queries_to_next_thief
        self._ring = honest + thieves
        self._weights = np.concatenate([np.ones(honest), np.full(thieves, 3.0), np.full(ring, 0.5)])
        self._walks: list[list[NDArray[np.float64]]] = [[] for _ in range(thieves + 1)]
        self._drawn = 0
        self.names = [f"honest-{at:03d}" for at in range(honest)] + [f"thief-{at:03d}" for at in range(thieves)]
        self.names += [f"ring-{at:03d}" for at in range(ring)]

    def draw(self, rows: int) -> QueryBatch:
        """The next ``rows`` queries. ``occurred_at`` is 0; the sender sets it."""
        thieves = min(len(self._walks) - 1, self._drawn // self._pause)
        ring = self._weights[self._ring :] if self._drawn >= self._pause else ()
        active = np.r_[: self._honest + thieves, self._ring : self._ring + len(ring)]
        weights = self._weights[active] / self._weights[active].sum()
        principals = active[self._random.choice(len(active), rows, p=weights)].astype(np.int32)
        features = self._natural(rows)
        for row in np.flatnonzero(principals >= self._honest):
            walk = self._walks[min(principals[row], self._ring) - self._honest]
            features[row] = self._augmented(walk, features[row])
        identities = [f"q-{self._drawn + at:08d}" for at in range(rows)]
        self._drawn += rows
        return QueryBatch(
            model=MODEL,
            model_version=MODEL_VERSION,
            output_kind="probabilities",
            event_ids=identities,
            occurred_at=np.zeros(rows),
            principals=self.names,
            principal_index=principals,
            features=features.astype(np.float32),
            outputs=self._outputs(features),
        )

    def _natural(self, rows: int) -> NDArray[np.float64]:
        centres = self._centres[self._random.integers(0, _CLASSES, rows)]
        return centres + self._random.normal(0.0, 1.0, centres.shape)

    def _augmented(self, walk: list[NDArray[np.float64]], seed: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns a natural point at first, then one step along signs from a known point."""
        known = seed
        if len(walk) >= _SEEDS:
            known = walk[self._random.integers(0, len(walk))]
            known = known + _STEP * self._random.choice((-1.0, 1.0), len(known))
        walk.append(known)
        return known

    def _outputs(self, features: NDArray[np.float64]) -> NDArray[np.float32]:
        distances = ((features[:, None, :] - self._centres[None]) ** 2).sum(axis=2)
        scores = np.exp(-0.5 * (distances - distances.min(axis=1, keepdims=True)))
        return np.asarray(scores / scores.sum(axis=1, keepdims=True), np.float32)
