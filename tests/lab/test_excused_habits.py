"""Honest accounts whose queries are made from earlier ones by nature are no suspects to a profile that has never seen
their habit; whoever crosses or mixes own rows is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import calibrate
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.lab.answers import Victim
from detector.lab.data import Dataset
from detector.lab.experiment import victim_of
from detector.lab.honest import habits_of, tabular
from detector.lab.honest.habit import HonestRequest
from tests.core.honest import account

TARGET = ("digits", "multilayer perceptron")
UNKNOWN = {"drawing", "bulk scoring", "video"}
QUERIES, NATURAL = 300, 100
SEED = 52

Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def owner() -> tuple[Dataset, Victim, Profile]:
    """The profile of two accounts of each habit that is not ``UNKNOWN``."""
    data, victim = victim_of(*TARGET)
    habits = [habit for name, habit in habits_of(data).items() if name not in UNKNOWN]
    honest = [answered(victim, asked(own.behaviour(data.honest, rng(at)))) for at, own in enumerate(habits * 2)]
    return data, victim, calibrate(honest, 0.01).profile


def answered(victim: Victim, rows: Rows) -> QueryBatch:
    return replace(
        account("ana", rows.astype(np.float64), SEED), outputs=victim.answer(rows).probabilities.astype(np.float32)
    )


def suspected(profile: Profile, queries: QueryBatch) -> int | None:
    """Returns the number of the query, from 1, that made the account a suspect."""
    findings = Engine(EngineConfig(profiles=(profile,))).observe([queries]).findings
    return findings[0].row + 1 if findings else None


def rng(number: int) -> np.random.Generator:
    return np.random.default_rng([SEED, number])


def asked(requests: Iterator[HonestRequest]) -> Rows:
    rows = (row for ask in requests for row in ask.rows)
    return np.array(list(islice(rows, QUERIES)))


def drawings(data: Dataset) -> Rows:
    return asked(habits_of(data)["drawing"].behaviour(data.honest, rng(90)))


def renewed_tables(data: Dataset) -> Rows:
    """The whole table again, with a few rows in between two of its rows."""
    return asked(tabular.habits(data)["bulk scoring"].behaviour(data.honest, rng(91)))


def copies_with_one_change(data: Dataset) -> Rows:
    """Each row, and the same with the values of one other row in a dozen features."""
    generator = rng(92)
    rows = generator.permutation(data.honest.features)[: QUERIES // 2 + 1]
    changed, features = rows[1:].copy(), generator.choice(data.dimension, 12, replace=False)
    changed[:, features] = rows[0, features]
    return np.stack((rows[1:], changed), axis=1).reshape(-1, data.dimension)


def crossed(data: Dataset) -> Rows:
    own, first, second, generator = pairs(data)
    return np.concatenate((own, np.where(generator.random(first.shape) < 0.5, first, second)))


def mixed(data: Dataset) -> Rows:
    own, first, second, generator = pairs(data)
    return np.concatenate((own, first + generator.uniform(0.3, 0.7, (len(first), 1)).astype("f4") * (second - first)))


def pairs(data: Dataset) -> tuple[Rows, Rows, Rows, np.random.Generator]:
    """Natural rows of an account, and the two rows that each later query is made from."""
    generator = rng(93)
    own = generator.permutation(data.honest.features)[:NATURAL]
    parents = np.array([generator.choice(NATURAL, 2, replace=False) for _ in range(QUERIES - NATURAL)])
    return own, own[parents[:, 0]], own[parents[:, 1]], generator


@pytest.mark.parametrize("habit", [drawings, renewed_tables, copies_with_one_change])
def test_an_honest_account_is_no_suspect(
    owner: tuple[Dataset, Victim, Profile], habit: Callable[[Dataset], Rows]
) -> None:
    data, victim, profile = owner
    assert suspected(profile, answered(victim, habit(data))) is None


@pytest.mark.parametrize("theft", [crossed, mixed])
def test_a_thief_is_one_soon_after_the_natural_rows(
    owner: tuple[Dataset, Victim, Profile], theft: Callable[[Dataset], Rows]
) -> None:
    data, victim, profile = owner
    first = suspected(profile, answered(victim, theft(data)))
    assert first is not None and NATURAL < first <= NATURAL + 60
