"""Honest users: one habit per line. A new habit is a function in a file here and a line in ``HABITS``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from detector.lab.data import Dataset
from detector.lab.honest import images, tabular
from detector.lab.honest.habit import Habit, HonestRequest, health_check

HABITS: dict[str, Habit] = {
    habit.name: habit
    for habit in (
        Habit("steady", images.steady, "new images at an even pace"),
        Habit("bursts", images.bursts, "silence, then dozens at once"),
        Habit("bulk", images.bulk, "fifty rows in one request"),
        Habit("light", images.light, "a query now and then"),
        Habit("retries", images.retries, "sends every third query again"),
        Habit("health check", health_check, "one vector without end"),
        Habit("scanner", images.scanner, "crooked sheets with noise"),
        Habit("shift", images.shift, "images off centre"),
        Habit("rotation", images.rotation, "images turned"),
        Habit("blur", images.blur, "images out of focus"),
        Habit("contrast", images.contrast, "faded images"),
        Habit("new device", images.new_device, "sharp images, then blurred and faded ones"),
        Habit("several views", images.several_views, "each image in four views"),
        Habit("one class", images.one_class, "one digit only"),
        Habit("drawing", images.drawing, "asks stroke by stroke"),
        Habit("short what-if", images.short_what_if, "varies one pixel of five images"),
        Habit(
            "what-if",
            images.what_if,
            "varies one pixel of every image, all day",
            false_alarm="one-pixel changes are many small equal steps; flagged after some 130 queries",
        ),
        Habit(
            "video",
            images.video,
            "noise-free video",
            false_alarm="equal steps between frames, and a jump at each cut; flagged after some 120 frames",
        ),
        Habit(
            "camera",
            images.camera,
            "a fixed camera before changing sheets",
            false_alarm="many frames a sheet at the distance of the sensor's noise; flagged after some 700 frames",
        ),
        Habit(
            "rescans",
            images.rescans,
            "the same sixty sheets over and over, with noise",
            false_alarm="each new scan is a hair away from the last one of its sheet; flagged after some 120 queries",
        ),
    )
}
"""Habits of users of images."""


class HonestUser(NamedTuple):
    """``requests``: the user's requests in order; endless, unless the ``habit`` is to stop."""

    account: str
    habit: str
    requests: Iterator[HonestRequest]


def habits_of(dataset: Dataset) -> dict[str, Habit]:
    """Returns the habits for every data set; for images, ``HABITS`` too, which replace those of the same name."""
    return tabular.habits(dataset) | ({} if dataset.side is None else HABITS)


def take_turns(habits: Iterable[Habit], accounts: int) -> Iterator[tuple[str, Habit]]:
    """Yields the names of ``accounts`` users, by habit and number, with their ``habits``, which take turns."""
    seen: Counter[str] = Counter()
    for habit in islice(cycle(habits), accounts):
        seen[habit.name] += 1
        yield f"{habit.name.replace(' ', '-')}-{seen[habit.name]}", habit


def population(dataset: Dataset, accounts: int, seed: int) -> list[HonestUser]:
    """Returns ``accounts`` honest users of the model of ``dataset``, the same for the same ``seed``.

    All habits take turns, including known false alarms, so that measured false-alarm rates include them.
    """
    named = enumerate(take_turns(habits_of(dataset).values(), accounts))
    return [
        HonestUser(name, habit.name, habit.behaviour(dataset.honest, np.random.default_rng([seed, 2, number])))
        for number, (name, habit) in named
    ]
