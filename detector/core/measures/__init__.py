"""Scores of single queries, a file a family, and their registry: a new one is one more line here.

``suspicion`` keeps their averages; stored averages are in this order.
"""

from __future__ import annotations

from detector.core.measures.base import Measure
from detector.core.measures.content import MISSING_FEATURES, NOVELTY, OUTLYINGNESS, SPECIFICATION_CHANGES, UNSEEN_VALUES
from detector.core.measures.outputs import HARDNESS, HIGH_MARGIN, LEAPS, LOW_MARGIN, SURPRISE
from detector.core.measures.structure import (
    CROSSINGS,
    NEAR_DUPLICATE,
    ONE_FEATURE,
    PARALLEL_STEPS,
    SIGN_STEPS,
    TINY_STEPS,
)

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        NOVELTY,
        UNSEEN_VALUES,
        OUTLYINGNESS,
        SURPRISE,
        LOW_MARGIN,
        HIGH_MARGIN,
        HARDNESS,
        NEAR_DUPLICATE,
        TINY_STEPS,
        ONE_FEATURE,
        SIGN_STEPS,
        PARALLEL_STEPS,
        MISSING_FEATURES,
        SPECIFICATION_CHANGES,
        CROSSINGS,
        LEAPS,
    )
}
