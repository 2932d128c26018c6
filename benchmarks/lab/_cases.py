"""Victims of the tables, by name, and the answers that they are served through."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from detector.lab.answers import Victim
from tests.lab import sklearn_cases as cases
from tests.lab.coarser import LabelOnly, Rounded
from tests.lab.sklearn_cases import SklearnCase

CASES: dict[str, Callable[[], SklearnCase]] = {
    "logistic, d = 30": cases.logistic,
    "softmax, digits": partial(cases.softmax, "digits"),
    "softmax, wine": partial(cases.softmax, "wine"),
    "20 tanh units, wine": cases.perceptron,
    "RBF SVM, two moons": cases.moons,
}

CASE_SEEDS = range(10)
"""Of thieves. Three would not do: one in ten comes by too few inputs of the logistic victim's rarer class."""

ANSWERS = ("exact", "4 digits", "2 digits", "1 digit", "label only")
"""From the most to the least that an API may say."""


def served_by(victim: Victim, answers: str) -> Victim:
    """``victim`` behind an API that gives one of ``ANSWERS``."""
    if answers == "exact":
        return victim
    return LabelOnly(victim) if answers == "label only" else Rounded(victim, int(answers.split(maxsplit=1)[0]))
