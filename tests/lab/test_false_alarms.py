"""The habits that are marked as false alarms are that, and the others are not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Observation
from detector.lab.attackers.attacker import run_offline
from detector.lab.data import Dataset
from detector.lab.honest import HABITS
from detector.lab.honest.habit import Habit, Rows
from detector.lab.traffic import jacobian_thief
from detector.lab.victims.digits import MODEL, MODEL_VERSION, DigitsVictim

SECONDS = {"camera": 300.0, "video": 120.0}
"""How long each habit is watched: one minute, unless it takes longer."""

ANSWER_SECONDS = 0.01


def rows_of(habit: Habit, split: Dataset) -> Iterator[Rows]:
    """The queries of a user with that habit in that time."""
    now = 0.0
    for ask in habit.behaviour(split.honest, np.random.default_rng(0)):
        now += ask.pause + ANSWER_SECONDS
        if now > SECONDS.get(habit.name, 60.0):
            return
        yield ask.rows


def judged(features: Rows, victim: DigitsVictim) -> Observation:
    """The default engine's verdict on one account with the queries ``features``."""
    queries = len(features)
    batch = QueryBatch(
        model=MODEL,
        model_version=MODEL_VERSION,
        output_kind="probabilities",
        event_ids=[str(number) for number in range(queries)],
        occurred_at=1e9 + np.arange(queries, dtype=np.float64),
        principals=["somebody"],
        principal_index=np.zeros(queries, dtype=np.int32),
        features=features,
        outputs=victim.probabilities(features).astype(np.float32),
    )
    return Engine(EngineConfig()).observe([batch])


@pytest.mark.parametrize("habit", HABITS.values(), ids=lambda habit: habit.name)
def test_prada_flags_exactly_the_habits_that_are_marked(habit: Habit, split: Dataset, victim: DigitsVictim) -> None:
    observation = judged(np.concatenate(list(rows_of(habit, split))), victim)
    assert observation.flagged.any() == (habit.false_alarm is not None)


def test_the_thief_is_flagged_in_his_first_round_of_augmentation(split: Dataset, victim: DigitsVictim) -> None:
    thief = jacobian_thief(split, seed=0, budget=400)
    run_offline(thief, victim)
    flagged = np.flatnonzero(judged(thief._features.astype(np.float32), victim).flagged)
    assert 100 < flagged[0] < 200
