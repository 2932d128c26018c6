"""Profiles for tests, made without a calibration."""

from __future__ import annotations

import numpy as np

from detector.core.measures import MEASURES
from detector.core.profile import Profile
from detector.core.reference.reference import HonestQueries, Reference
from detector.core.reference.standards import Spread, Standards
from detector.core.signals import WEIGHED
from detector.core.signals.suspicion import FOLLOWING
from tests.core.streams import Features, linear_outputs

COLUMNS = (*MEASURES, *WEIGHED, *FOLLOWING)


def reference(rows: Features, classes: int = 3) -> Reference:
    """Of ``rows``, whose outputs are those of ``linear_outputs``."""
    outputs = linear_outputs(rows, classes)
    return Reference.of([HonestQueries(rows, outputs)], "probabilities")


def standards(threshold: float = np.inf) -> Standards:
    """One ordinary account, of mean 0 and deviation 1 in everything."""
    ones = np.ones(len(COLUMNS))
    return Standards(COLUMNS, Spread(0 * ones, ones, ones), np.zeros((1, len(COLUMNS))), threshold)


def profile(rows: Features, classes: int = 3, threshold: float = np.inf) -> Profile:
    """For version 1 of the model ``credit``."""
    return Profile("credit", "1", reference(rows, classes), standards(threshold))
