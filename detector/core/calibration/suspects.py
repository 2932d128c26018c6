"""Finds calibration accounts that stand out from all others, and possible thieves among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from detector.core.calibration.calibrate import Calibration
from detector.core.calibration.threshold import Tail
from detector.core.measures import MEASURES
from detector.core.measures.base import Family
from detector.core.signals.suspicion import CHANGE

Floats = NDArray[np.float64]

NOTABLE = 2.0
"""A family of measures counts if its contribution to an account's D is at least this."""

FAMILIES: dict[str, Family] = {name: own.family for name, own in MEASURES.items()} | {
    "prada": "structure",
    "margin": "outputs",
    CHANGE: "content",
}
"""The family of each column of standards."""


@dataclass(frozen=True, slots=True)
class Outlier:
    """Account ``name``, number ``at`` of the calibration, whose D against all others is ``largest``, more than they
    allow: ``allowed``. ``added``: the measures that add to it, what each adds, most first. ``excused``: names of the
    accounts that would be flagged too if this one were left out."""

    at: int
    name: str
    largest: float
    allowed: float
    added: tuple[tuple[str, float], ...]
    excused: tuple[str, ...] = ()

    @property
    def families(self) -> tuple[Family, ...]:
        """The families of measures with a notable contribution."""
        total: dict[Family, float] = {}
        for name, value in self.added:
            total[FAMILIES[name]] = total.get(FAMILIES[name], 0.0) + value
        return tuple(family for family, value in total.items() if value >= NOTABLE)

    @property
    def suspect(self) -> bool:
        """Whether it is extreme in two families: typical of thieves, rare for unusual honest users."""
        return len(self.families) >= 2


def outliers(calibration: Calibration, budget: float) -> list[Outlier]:
    """Returns the accounts that would be flagged if they were not in the calibration, largest first."""
    found = list(_outliers(calibration, allowed(calibration, budget)))
    return sorted(found, key=lambda outlier: -outlier.largest)


def allowed(calibration: Calibration, budget: float) -> Floats:
    """Returns float64 (n,): for each account the threshold of all others."""
    return limits(calibration.largest, calibration.odd, calibration.long, budget)


def limits(largest: Floats, odd: Floats, counts: NDArray[np.bool_], budget: float) -> Floats:
    """float64 (n,): for each account with its ``largest`` D the threshold that those others give which ``counts``."""
    rest = [counts & (np.arange(len(largest)) != at) for at in range(len(largest))]
    return np.array([Tail.beside(largest[own], odd[own]).threshold(budget) for own in rest])


def _outliers(calibration: Calibration, limits: Floats) -> Iterator[Outlier]:
    measures, largest = calibration.profile.standards.measures, calibration.largest
    for at in np.flatnonzero(largest > limits).tolist():
        added = calibration.farthest[at].added
        order = [column for column in np.argsort(-added, kind="stable").tolist() if added[column] > 0]
        names = tuple((measures[column], cast("float", added[column].item())) for column in order)
        alone = calibration.jury.without([at], calibration.farthest)
        excused = np.flatnonzero((largest <= limits) & (alone > limits)).tolist()
        like = tuple(sorted(calibration.accounts[other] for other in excused))
        yield Outlier(at, calibration.accounts[at], float(largest[at]), float(limits[at]), names, like)
