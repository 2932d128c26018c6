"""``change``: who asks other things than before is told from who always did, and it counts for so much at most."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.core.rows import Grouping
from detector.core.scoring import CLOCKS, Scoring, width
from detector.core.signals import MEASURES
from detector.core.standards import Spread

CONTENT = [name for name, own in MEASURES.items() if own.family == "content"]
NAMES = list(MEASURES)


def _change(scores: NDArray[np.float64], name: str = CONTENT[0]) -> NDArray[np.float64]:
    """As of each query of one who scores ``scores``, in least deviations of a single query, at the measure ``name``."""
    count = len(NAMES) + 1
    spread = Spread(np.zeros(count), np.full(count, 5.0), np.full(count, 5.0))
    scoring = Scoring(list(MEASURES.values()), spread)
    values = np.zeros((len(NAMES), len(scores)))
    values[NAMES.index(name)] = scores * np.hypot(MEASURES[name].between, MEASURES[name].within)
    weights = np.ones((len(CLOCKS), len(scores)))
    alone = Grouping.of(np.zeros(len(scores), np.int64), 1)
    blank = np.zeros((1, width(list(MEASURES.values()))))
    return scoring.follow(alone, values, weights, np.zeros((0, len(scores))), blank)[0][:, -1]


def _steps(before: float, after: float) -> NDArray[np.float64]:
    return np.repeat([before, after], [200, 100])


@pytest.mark.parametrize("name", CONTENT)
def test_it_rises_with_what_is_asked_and_fades_as_that_becomes_the_rule(name: str) -> None:
    said = _change(np.repeat([0.0, 1.0], [200, 700]), name)
    assert (said[:200] == 0).all()
    assert said[205] < said[220] and said[220] > 0.5
    assert said[-1] < said[300] / 2


def test_who_becomes_more_ordinary_does_not_change() -> None:
    assert (_change(_steps(1.0, 0.0))[205:] == 0).all()


def test_it_counts_for_three_at_most() -> None:
    said = _change(_steps(0.0, 7.0))
    assert said.max() == 3.0
    assert 0 < _change(_steps(0.0, 0.5)).max() < 3.0


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CONTENT])
def test_only_what_is_asked_counts(name: str) -> None:
    assert (_change(_steps(0.0, 7.0), name) == 0).all()
