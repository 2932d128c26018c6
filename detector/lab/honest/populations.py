"""Honest populations of any data set, for measuring false alarms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from detector.lab.data import Dataset
from detector.lab.honest import HABITS, tabular
from detector.lab.honest.habit import Ask, Habit


class HonestUser(NamedTuple):
    """``asks``: the user's requests in order; endless, unless the ``habit`` is to stop."""

    account: str
    habit: str
    asks: Iterator[Ask]


def habits_of(dataset: Dataset) -> dict[str, Habit]:
    """Returns the habits for every data set; for images, ``HABITS`` too, which replace those of the same name."""
    images = {} if dataset.side is None else HABITS
    return tabular.habits(dataset) | images


def population(dataset: Dataset, accounts: int, seed: int) -> list[HonestUser]:
    """Returns ``accounts`` honest users of the model of ``dataset``, the same for the same ``seed``.

    All habits take turns, including known false alarms, so that measured false-alarm rates include them.
    """
    seen: Counter[str] = Counter()
    users = []
    for number, habit in enumerate(islice(cycle(habits_of(dataset).values()), accounts)):
        seen[habit.name] += 1
        name = f"{habit.name.replace(' ', '-')}-{seen[habit.name]}"
        asks = habit.behaviour(dataset.honest, np.random.default_rng([seed, 2, number]))
        users.append(HonestUser(name, habit.name, asks))
    return users
