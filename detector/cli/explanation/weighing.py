"""What each measure adds to a principal's suspicion at one of his queries, beside the honest account most like him."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.core.profile import Profile
from detector.core.scoring import CHANGE
from detector.core.signals import MEASURES
from detector.core.standards import unexplained
from detector.stream.explaining import Course

Floats = NDArray[np.float64]

_FIGURE = "suspicion."
_SEEN_AT = 0.5
"""A measure that adds less to D than this anywhere is not shown."""
_FEWEST = 3

_ABOUT = {
    "prada": "distances between own queries that are not spread as honest ones are (PRADA)",
    "margin": "queries close to where the model changes its answer",
    CHANGE: "queries of another kind than those before",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One measure: its ``score`` in standard deviations of honest accounts, what the honest account most like the
    principal reached (``likest``) and any honest account (``most``), and what it adds to D. Infinite where the
    calibration did not know the measure."""

    name: str
    score: float
    likest: float
    most: float
    added: float

    @property
    def about(self) -> str:
        """What it looks at, in words."""
        return about(self.name)


@dataclass(frozen=True, slots=True)
class Weighing:
    """After query ``row``: D is ``unexplained``, a verdict above ``threshold``; the ``parts``, largest first. The
    honest account most like the principal explains the share ``explained`` of what is unusual."""

    row: int
    unexplained: float
    threshold: float
    parts: tuple[Part, ...]
    explained: float

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)


def about(name: str) -> str:
    """What the measure or signal ``name`` looks at, in words."""
    return MEASURES[name].about if name in MEASURES else _ABOUT.get(name, name)


def names_in(course: Course) -> list[str]:
    """The measures that suspicion rests on."""
    return [name.removeprefix(_FIGURE) for name in course.signals if name.startswith(_FIGURE)]


def scores_of(course: Course, name: str) -> Floats:
    """float64 (n,): the standardised score of the measure ``name`` as of each query."""
    return course.signals[f"{_FIGURE}{name}"]


def weigh(course: Course, row: int, profile: Profile | None) -> Weighing | None:
    """None where ``profile`` is, or where suspicion is silent."""
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


def telling(course: Course, profile: Profile) -> list[str]:
    """The measures that ever add much to D under ``profile``, three at least; those first that add most."""
    names = names_in(course)
    rows = np.flatnonzero(~np.isnan(course.signals["suspicion"]) & _under(course, profile))
    scores = np.stack([scores_of(course, name)[rows] for name in names], axis=1)
    most = profile.standards.aligned(names).contributions(scores)[0].max(axis=0)
    order = np.argsort(-most, kind="stable")
    return [names[at] for at in order[: max(int((most >= _SEEN_AT).sum()), _FEWEST)]]


def _under(course: Course, profile: Profile) -> NDArray[np.bool_]:
    return np.array([version == profile.model_version for version in course.versions])


def _explained(scores: Floats, left: float) -> float:
    """Of what is above the ordinary account; 0 where nothing is, or where it is the ordinary account that explains
    most."""
    unusual = float(unexplained(scores, np.zeros((1, scores.shape[1])))[0][0])
    return max(1 - left / unusual, 0.0) if unusual > 0 else 0.0
