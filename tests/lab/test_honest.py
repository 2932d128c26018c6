"""Honest users do what their habit says, and the same for the same seed."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from detector.lab.data import Dataset
from detector.lab.honest import HABITS
from detector.lab.honest.habit import Habit, HonestRequest
from detector.lab.traffic import honest_accounts, known_false_alarms

ASKS = 60


def asks(habit: Habit, split: Dataset, seed: int, number: int = ASKS) -> list[HonestRequest]:
    return list(islice(habit.behaviour(split.honest, np.random.default_rng(seed)), number))


def rows(habit: str, split: Dataset, seed: int = 0, number: int = ASKS) -> np.ndarray:
    return np.concatenate([ask.rows for ask in asks(HABITS[habit], split, seed, number)])


@pytest.mark.parametrize("habit", HABITS.values(), ids=lambda habit: habit.name)
def test_the_same_seed_gives_the_same_asks_and_another_one_others(habit: Habit, split: Dataset) -> None:
    first, again, other = asks(habit, split, 1), asks(habit, split, 1), asks(habit, split, 2)
    assert [ask.pause for ask in first] == [ask.pause for ask in again]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.rows, two.rows)
    assert any(not np.array_equal(one.rows, two.rows) for one, two in zip(first, other, strict=False))


@pytest.mark.parametrize("habit", HABITS.values(), ids=lambda habit: habit.name)
def test_every_ask_is_of_images_and_comes_after_a_pause(habit: Habit, split: Dataset) -> None:
    for ask in asks(habit, split, 0):
        assert ask.rows.dtype == np.float32
        assert ask.rows.shape[1:] == (64,)
        assert ask.rows.min() >= 0
        assert ask.rows.max() <= 1
        assert ask.pause >= 0


def test_retries_repeat_exactly_and_health_checks_never_change(split: Dataset) -> None:
    retried = rows("retries", split)
    assert (retried[1:] == retried[:-1]).all(axis=1).any()
    assert len(np.unique(retried, axis=0)) > 20
    assert len(np.unique(rows("health check", split), axis=0)) == 1


def test_a_what_if_user_changes_one_pixel_at_a_time(split: Dataset) -> None:
    changed = (np.diff(rows("what-if", split), axis=0) != 0).sum(axis=1)
    assert (changed <= 1).mean() > 0.8


def test_a_new_device_is_worse_than_the_old_one_and_stays(split: Dataset) -> None:
    asked = rows("new device", split, number=400)
    brightest = asked.max(axis=1)
    assert (brightest[:150] == 1).mean() > 0.9
    assert (brightest[150:] < 0.95).all()
    known = {row.tobytes() for row in split.honest.features}
    assert all(row.tobytes() in known for row in asked[:150])


def test_a_drawing_only_ever_grows_until_the_next_one(split: Dataset) -> None:
    drawn = rows("drawing", split, number=4)
    assert (np.diff(drawn, axis=0) >= 0).all()


def test_a_population_of_two_dozen_has_many_habits_and_unique_names() -> None:
    accounts = honest_accounts(24)
    assert len({account.name for account in accounts}) == 24
    assert len({account.habit.name for account in accounts}) >= 12
    assert len({account.number for account in accounts}) == 24


def test_no_account_of_a_population_has_a_habit_that_is_a_known_false_alarm() -> None:
    known = {habit.name for habit in known_false_alarms()}
    assert known
    assert not known & {account.habit.name for account in honest_accounts(100)}
