"""The signals and measures, one file each, and their registries: a new one is one more line here.

A signal has state of its own; a measure scores single queries, and ``suspicion`` keeps its averages.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from detector.core.configuration import EngineConfig
from detector.core.measure import Measure
from detector.core.signal import Signal
from detector.core.signals.coverage import Coverage
from detector.core.signals.crossings import CROSSINGS
from detector.core.signals.hardness import HARDNESS
from detector.core.signals.high_margin import HIGH_MARGIN
from detector.core.signals.information_gain import InformationGain
from detector.core.signals.leaps import LEAPS
from detector.core.signals.low_margin import LOW_MARGIN
from detector.core.signals.margin import Margin
from detector.core.signals.missing_features import MISSING_FEATURES
from detector.core.signals.near_duplicate import NEAR_DUPLICATE
from detector.core.signals.novelty import NOVELTY
from detector.core.signals.one_feature import ONE_FEATURE
from detector.core.signals.outlyingness import OUTLYINGNESS
from detector.core.signals.parallel_steps import PARALLEL_STEPS
from detector.core.signals.prada import Prada
from detector.core.signals.sign_steps import SIGN_STEPS
from detector.core.signals.specification_changes import SPECIFICATION_CHANGES
from detector.core.signals.surprise import SURPRISE
from detector.core.signals.suspicion import Suspicion
from detector.core.signals.tiny_steps import TINY_STEPS
from detector.core.signals.unseen_values import UNSEEN_VALUES

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

WEIGHED = ("prada", "margin")
"""Signals whose scores count in ``suspicion`` beside the measures."""

SIGNALS: dict[str, Callable[[EngineConfig], Signal]] = {
    "prada": Prada,
    "margin": Margin,
    "information_gain": InformationGain,
    "coverage": Coverage,
    "suspicion": partial(Suspicion, measures=MEASURES, others=WEIGHED),
}
