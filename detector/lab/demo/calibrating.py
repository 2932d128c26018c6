"""The profile of the demo's tree, made from other honest users before the demo begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import calibrate
from detector.core.calibration.crossfit import OwnerInputs
from detector.core.exposure import Validation
from detector.core.owner_model import OwnerModel
from detector.core.profile.profile import Profile
from detector.lab.answers import Victim
from detector.lab.data import Dataset
from detector.lab.datasets import breast_cancer
from detector.lab.honest import population
from detector.lab.honest.habit import HonestRequest
from detector.lab.server import TUMOURS_MODEL
from detector.lab.victims.digits import MODEL_VERSION
from detector.lab.victims.tabular import TreeVictim

ACCOUNTS = 36
BUDGET = 0.01

_SECONDS = 50.0
_OTHERS = 1_000
"""Added to the seed, so that none of these users takes part in the demo."""

ReadModel = Callable[[object], OwnerModel]
"""Converts a fitted model of scikit-learn to the form that the detector reads."""


def profile_of_tumours(seed: int, read: ReadModel, progress: Callable[[int], None] | None = None) -> Profile:
    """Returns the profile of 36 honest users' queries in 50 seconds, the owner's tree and its training rows; a share of
    0.01 of honest accounts may be flagged. ``progress`` is called with the number of accounts replayed."""
    dataset = breast_cancer()
    victim = TreeVictim(dataset)
    model = read(victim.model)
    rows = dataset.training.features
    validation = Validation.of(rows, victim.answer(rows).labels)
    accounts = list(_accounts(dataset, victim, seed + _OTHERS))
    return calibrate(accounts, BUDGET, progress, OwnerInputs(model, validation)).profile


def _accounts(dataset: Dataset, victim: Victim, seed: int) -> Iterator[QueryBatch]:
    for user in population(dataset, ACCOUNTS, seed):
        rows = _asked(user.requests)
        yield QueryBatch(
            model=TUMOURS_MODEL,
            model_version=MODEL_VERSION,
            output_kind=victim.output_kind,
            event_ids=[f"{user.account}-{number}" for number in range(len(rows))],
            occurred_at=np.zeros(len(rows)),
            principals=[user.account],
            principal_index=np.zeros(len(rows), np.int32),
            features=rows,
            outputs=victim.answer(rows).probabilities.astype(np.float32),
        )


def _asked(asks: Iterator[HonestRequest]) -> NDArray[np.float32]:
    """Returns the rows of the first request, and of all that follow it in time."""
    rows, now = [next(asks).rows], 0.0
    for ask in asks:
        now += ask.pause
        if now > _SECONDS:
            break
        rows.append(ask.rows)
    return np.concatenate(rows)
