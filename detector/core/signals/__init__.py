"""The signals and their registry: a new one is one more line here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from detector.core.configuration import EngineConfig
from detector.core.measures import MEASURES
from detector.core.signals.base import Signal
from detector.core.signals.margin import Margin
from detector.core.signals.meters import Coverage, InformationGain
from detector.core.signals.prada import Prada
from detector.core.signals.suspicion import Suspicion

WEIGHED = ("prada", "margin")
"""Signals whose scores count in ``suspicion`` beside the measures."""

SIGNALS: dict[str, Callable[[EngineConfig], Signal]] = {
    "prada": Prada,
    "margin": Margin,
    "information_gain": InformationGain,
    "coverage": Coverage,
    "suspicion": partial(Suspicion, measures=MEASURES, others=WEIGHED),
}
