"""Measures of content: how unlike honest queries a query is, whatever the principal asked before."""

from __future__ import annotations

import numpy as np

from detector.core.measures.base import Floats, Measure, Sight

_NOVELTY_LEAST = 1e-6


def _novelty(sight: Sight) -> Floats:
    """Returns the logarithm of the distance to the nearest reference row."""
    return np.asarray(np.log(sight.views.neighbours.distance + _NOVELTY_LEAST))


NOVELTY = Measure(
    name="novelty",
    family="content",
    about="distance to the nearest honest query",
    unit="log feature units",
    clock="effective",
    between=0.15,
    within=0.3,
    score=_novelty,
)
"""``novelty``: the distance of a query to all honest ones. Synthetic inputs and foreign images have a large one."""


def _unseen_values(sight: Sight) -> Floats:
    """Returns log2(1 + number of such features)."""
    return np.asarray(np.log2(1.0 + sight.reference.seen.unseen(sight.rows.features)))


UNSEEN_VALUES = Measure(
    name="unseen_values",
    family="content",
    about="feature values that no honest query has",
    unit="log2 features",
    clock="effective",
    between=0.15,
    within=0.3,
    score=_unseen_values,
)
"""``unseen_values``: features with a value that no honest query has. Random numbers are seldom among the values in
use."""


_OUTLYING_LEAST = 1e-12


def _outlyingness(sight: Sight) -> Floats:
    """Returns the logarithm of the squared distance per feature."""
    return np.asarray(np.log(sight.views.placed.unusual + _OUTLYING_LEAST))


OUTLYINGNESS = Measure(
    name="outlyingness",
    family="content",
    about="Mahalanobis distance to the honest queries",
    unit="log squared deviations a feature",
    clock="effective",
    between=0.15,
    within=0.3,
    score=_outlyingness,
)
"""``outlyingness``: Mahalanobis distance of a query to the honest ones. Directions without honest variance weigh most:
steps along no natural direction, above all gradient steps, stand out however small they are."""
