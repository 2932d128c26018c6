"""The contribution of each measure to a principal's D at one query, compared with the closest honest account."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.measures import MEASURES
from detector.core.profile.profile import Profile
from detector.core.profile.standards import unexplained
from detector.core.signals.suspicion import CHANGE
from detector.replay.principal import PrincipalReplay

Floats = NDArray[np.float64]

_FIGURE = "suspicion."
_SEEN_AT = 0.5
"""A measure is not shown if its contribution never reaches this."""
_FEWEST = 3

_ABOUT = {
    "prada": "distances between the account's own queries, not distributed as honest ones are (PRADA)",
    "margin": "queries close to the decision boundary",
    CHANGE: "queries unlike the account's earlier ones",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One measure: its deviation (``score``), that of the closest honest account (``likest``), the largest of any
    honest account (``most``) and the contribution to D (``added``), all in standard deviations of honest accounts.
    ``likest`` and ``most`` are infinite if the calibration lacks the measure."""

    name: str
    score: float
    likest: float
    most: float
    added: float

    @property
    def about(self) -> str:
        """What it describes, in words."""
        return about(self.name)


@dataclass(frozen=True, slots=True)
class Weighing:
    """The state after query ``row``: D is ``unexplained``, and flags the principal above ``threshold``. ``parts`` come
    largest first. The closest honest account explains the share ``explained`` of the deviation."""

    row: int
    unexplained: float
    threshold: float
    parts: tuple[Part, ...]
    explained: float

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)


def about(name: str) -> str:
    """Returns what the measure or signal ``name`` describes, in words."""
    return MEASURES[name].about if name in MEASURES else _ABOUT.get(name, name)


def names_in(course: PrincipalReplay) -> list[str]:
    """Returns the names of the measures that suspicion uses."""
    return [name.removeprefix(_FIGURE) for name in course.signals if name.startswith(_FIGURE)]


def scores_of(course: PrincipalReplay, name: str) -> Floats:
    """Returns float64 (n,): the deviation in the measure ``name`` as of each query."""
    return course.signals[f"{_FIGURE}{name}"]


def weigh(course: PrincipalReplay, row: int, profile: Profile | None) -> Weighing | None:
    """Returns the contributions at ``row``, or None without a profile or before suspicion has a value."""
    if profile is None or np.isnan(course.signals["suspicion"][row]):
        return None
    names = names_in(course)
    standards = profile.standards.aligned(names)
    scores = np.array([[scores_of(course, name)[row] for name in names]])
    added, likest = standards.contributions(scores)
    most = standards.exemplars.max(axis=0)
    columns = zip(names, scores[0].tolist(), likest[0].tolist(), most.tolist(), added[0].tolist(), strict=True)
    parts = sorted((Part(*column) for column in columns), key=lambda part: (-part.added, -part.score))
    left = float(course.signals["suspicion"][row])
    return Weighing(row, left, standards.threshold, tuple(parts), _explained(scores, left))


def telling(course: PrincipalReplay, profile: Profile) -> list[str]:
    """Returns the measures whose contribution to D under ``profile`` is ever large, at least three, largest first."""
    names = names_in(course)
    rows = np.flatnonzero(~np.isnan(course.signals["suspicion"]) & _under(course, profile))
    scores = np.stack([scores_of(course, name)[rows] for name in names], axis=1)
    most = profile.standards.aligned(names).contributions(scores)[0].max(axis=0)
    order = np.argsort(-most, kind="stable")
    return [names[at] for at in order[: max(int((most >= _SEEN_AT).sum()), _FEWEST)]]


def _under(course: PrincipalReplay, profile: Profile) -> NDArray[np.bool_]:
    return np.array([version == profile.model_version for version in course.versions])


def _explained(scores: Floats, left: float) -> float:
    """Returns the explained share of the deviation from the average account; 0 without a deviation, or if the average
    account is the closest."""
    unusual = float(unexplained(scores, np.zeros((1, scores.shape[1])))[0][0])
    return max(1 - left / unusual, 0.0) if unusual > 0 else 0.0
