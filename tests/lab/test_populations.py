"""Honest populations of every data set do what their habits say."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from detector.lab.data import Dataset, Examples
from detector.lab.datasets import DATASETS
from detector.lab.honest import HABITS, HonestUser, habits_of, population, tabular

SMALL = ["breast cancer", "categorical", "digits", "iris", "linear", "wine"]
ROWS = 80
LOW, HIGH = np.zeros(100, np.float32), np.ones(100, np.float32)
GO_HOME = {"short-lived", "short what-if"}
SEED = 4


@pytest.fixture(scope="module", params=SMALL)
def dataset(request: pytest.FixtureRequest) -> Dataset:
    return DATASETS[request.param]()


@pytest.fixture(scope="module")
def table() -> Dataset:
    return DATASETS["categorical"]()


def rows(user: HonestUser, number: int = ROWS) -> np.ndarray:
    return np.stack(list(islice((row for ask in user.requests for row in ask.rows), number)))


def asked(habit: str, dataset: Dataset, number: int = ROWS) -> np.ndarray:
    """The first rows of a user of ``dataset`` with that table habit."""
    asks = tabular.habits(dataset)[habit].behaviour(dataset.honest, np.random.default_rng(SEED))
    return np.concatenate([ask.rows for ask in islice(asks, number)])


def test_every_habit_of_the_data_set_takes_its_turn(dataset: Dataset) -> None:
    habits = habits_of(dataset)
    users = population(dataset, 2 * len(habits), SEED)
    assert [user.habit for user in users] == [*habits, *habits]
    assert len({user.account for user in users}) == len(users)
    assert set(tabular.habits(dataset)) <= set(habits)
    assert ("rotation" in habits) == (dataset.side is not None)


def test_every_row_is_an_input_of_the_model(dataset: Dataset) -> None:
    categorical = dataset.categories > 0
    for user in population(dataset, len(habits_of(dataset)), SEED):
        listed = rows(user)
        assert listed.dtype == np.float32
        assert (listed >= dataset.low).all() and (listed <= dataset.high).all(), user.habit
        np.testing.assert_array_equal(listed[:, categorical], listed[:, categorical].round())
        assert listed.shape[1] == dataset.dimension
        assert len(listed) == ROWS or user.habit in GO_HOME


def test_the_same_seed_gives_the_same_population_and_another_one_another(dataset: Dataset) -> None:
    accounts = len(habits_of(dataset))
    first, again, other = (population(dataset, accounts, seed) for seed in (1, 1, 2))
    for one, two, three in zip(first, again, other, strict=True):
        listed = rows(one)
        assert one[:2] == two[:2] == three[:2]
        np.testing.assert_array_equal(listed, rows(two))
        assert not np.array_equal(listed, rows(three)), one.habit


def test_two_accounts_with_one_habit_do_not_ask_the_same(table: Dataset) -> None:
    habits = len(habits_of(table))
    users = population(table, habits + 1, SEED)
    assert users[0].habit == users[habits].habit == "steady"
    assert not np.array_equal(rows(users[0]), rows(users[habits]))


def test_images_of_any_size_have_image_habits(split: Dataset) -> None:
    images = replace(split, honest=_framed(split.honest), low=LOW, high=HIGH, categories=np.zeros(100, int), side=10)
    for user in population(images, len(habits_of(images)), SEED):
        assert rows(user, 12).shape[1] == 100
    assert set(HABITS) <= set(habits_of(images))


def _framed(images: Examples) -> Examples:
    """With a black frame one pixel wide."""
    framed = np.pad(images.features.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    return Examples(framed.reshape(-1, 100), images.labels)


def test_fresh_rows_are_new_and_have_categories_that_occur_together(table: Dataset) -> None:
    said, columns = asked("steady", table), table.categories > 0
    assert len(np.unique(said, axis=0)) == ROWS
    assert not {row.tobytes() for row in said} & {row.tobytes() for row in table.honest.features}
    together = {row.tobytes() for row in table.honest.features[:, columns]}
    assert {row.tobytes() for row in said[:, columns]} <= together


def test_bulk_scoring_sends_the_whole_table_and_a_tenth_of_it_is_new_the_next_time(table: Dataset) -> None:
    held = table.honest.features
    first, second = np.split(asked("bulk scoring", table, 2), 2)
    np.testing.assert_array_equal(np.unique(first, axis=0), np.unique(held, axis=0))
    assert (first != second).any(axis=1).mean() == pytest.approx(0.1)


def test_a_what_if_user_varies_one_feature_of_a_row(table: Dataset) -> None:
    changed = (np.diff(asked("what-if", table), axis=0) != 0).sum(axis=1)
    assert (changed <= 1).mean() > 0.7
    assert (changed == 1).mean() > 0.4


def test_a_drifted_user_asks_off_the_distribution(table: Dataset) -> None:
    def off(habit: str) -> float:
        gap = asked(habit, table, 2_000).mean(axis=0) - table.honest.features.mean(axis=0)
        return float(np.abs(gap[table.categories == 0]).max())

    assert off("drifted") > 0.1 > off("steady")


def test_a_one_class_user_asks_about_one_class() -> None:
    wine = DATASETS["wine"]()
    answer = asked("one class", wine)
    distance = np.linalg.norm(answer[:, None] - wine.honest.features[None], axis=2)
    counts = np.bincount(wine.honest.labels[distance.argmin(axis=1)], minlength=3)
    assert counts.max() / counts.sum() > 0.9


def test_retries_repeat_exactly_and_health_checks_never_change(table: Dataset) -> None:
    retried = asked("retries", table)
    assert (retried[1:] == retried[:-1]).all(axis=1).mean() > 0.2
    assert len(np.unique(retried, axis=0)) > ROWS / 3
    assert len(np.unique(asked("health check", table), axis=0)) == 1


def test_a_slow_input_moves_by_small_steps_far(table: Dataset) -> None:
    answer = asked("slow change", table)[:, table.categories == 0]
    steps = np.abs(np.diff(answer, axis=0))
    assert np.median(steps) < 0.1
    assert np.ptp(answer, axis=0).max() > 0.5


def test_short_lived_accounts_go_home_within_a_dozen_queries(table: Dataset) -> None:
    behaviour = tabular.habits(table)["short-lived"].behaviour
    stays = [len(list(behaviour(table.honest, np.random.default_rng(seed)))) for seed in range(60)]
    assert min(stays) == 1 and max(stays) == 12
