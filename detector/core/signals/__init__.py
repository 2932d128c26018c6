"""The signals and their registry: a new one is one more line here. In this order they judge the rows of a step, and a
later one may read the scores and the repeats of those before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from detector.core.configuration import EngineConfig
from detector.core.exposure import EFFECTIVE_QUERIES
from detector.core.measures import MEASURES
from detector.core.signals.base import PRADA, Signal
from detector.core.signals.margin import Margin
from detector.core.signals.meters import Coverage, EffectiveQueries, InformationGain
from detector.core.signals.prada import WindowedPrada
from detector.core.signals.prada_published import PublishedPrada
from detector.core.signals.suspicion import Suspicion

WEIGHED = (PRADA, "margin")
"""Signals whose scores count in ``suspicion`` like measures."""


def prada(config: EngineConfig) -> Signal:
    """Returns the ``prada`` signal of the mode."""
    return PublishedPrada(config.prada) if config.mode == "compatible" else WindowedPrada(config.prada)


SIGNALS: dict[str, Callable[[EngineConfig], Signal]] = {
    PRADA: prada,
    "margin": Margin,
    "information_gain": InformationGain,
    "coverage": Coverage,
    EFFECTIVE_QUERIES: EffectiveQueries,
    "suspicion": partial(Suspicion, measures=MEASURES, others=WEIGHED),
}
