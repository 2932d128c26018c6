"""Scores of single queries, and their registry: a new measure is one function beside its family and one entry here.

``suspicion`` keeps their averages; stored averages are in this order.
"""

from __future__ import annotations

from detector.core.measures import content, outputs, structure
from detector.core.measures.base import Measure

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        content.novelty,
        content.unseen_values,
        content.outlyingness,
        outputs.surprise,
        outputs.low_margin,
        outputs.high_margin,
        outputs.hardness,
        structure.near_duplicate,
        structure.tiny_steps,
        structure.one_feature,
        structure.sign_steps,
        structure.parallel_steps,
        content.missing_features,
        content.specification_changes,
        structure.crossings,
        outputs.leaps,
    )
}
