"""``parallel_steps``: two steps in a row along one line: line search, finite differences along one direction."""

from __future__ import annotations

import numpy as np

from detector.core.measure import Floats, Measure, Sight

_PARALLEL = 0.98
_FEWEST = 3
_LEAST = 1e-20


def _score(sight: Sight) -> Floats:
    """Returns 1 where the cosine of the last two steps is above 0.98 in absolute value; ``one_feature`` covers steps in
    one or two features."""
    last, before = (step.astype(np.float64) for step in (sight.trail.step, sight.trail.step_before))
    product = np.abs(np.einsum("ij,ij->i", last, before))
    length = np.sqrt(np.einsum("ij,ij->i", last, last) * np.einsum("ij,ij->i", before, before))
    parallel = (product > _PARALLEL * length) & (length > _LEAST) & (sight.changes >= _FEWEST)
    return np.asarray(parallel, np.float64)


PARALLEL_STEPS = Measure(
    name="parallel_steps",
    family="structure",
    about="consecutive steps along one line",
    unit="share of queries",
    clock="each",
    between=0.05,
    within=0.15,
    score=_score,
)
