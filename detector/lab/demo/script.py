"""What happens on each model of the demo: its options, honest users, thief, promise and profile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Mode
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import calibrate
from detector.core.calibration.crossfit import OwnerInputs
from detector.core.exposure import Validation
from detector.core.owner_model import OwnerModel
from detector.core.profile import Profile
from detector.groups.calibration import crowd_of
from detector.lab.answers import Victim
from detector.lab.attackers.attacker import Attacker
from detector.lab.attackers.substitute import SEEDS
from detector.lab.data import Dataset
from detector.lab.datasets import sklearn_table
from detector.lab.demo.report import Promise
from detector.lab.experiment import queries_of
from detector.lab.honest import habits_of, population
from detector.lab.honest.habit import HonestRequest
from detector.lab.server import PREDICT, TUMOURS, TUMOURS_MODEL
from detector.lab.traffic import HonestAccount, accounts_with, honest_accounts, jacobian_thief, path_finding_thief
from detector.lab.victims import digits
from detector.lab.victims.tabular import TreeVictim

ReadModel = Callable[[object], OwnerModel]
"""Converts a fitted model of scikit-learn to the form that the detector reads."""

TABLE_ACCOUNTS = 12
CALIBRATION_ACCOUNTS = 36
BUDGET = 0.01

_CALIBRATION_SECONDS = 50.0
_OTHERS = 1_000
"""Added to the seed, so that these users do not take part in the demo."""
NATURAL_SECONDS = 50.0
"""The duration of the traffic at its natural pace; more or fewer seconds stretch or squeeze the same queries."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``seconds`` of traffic. The same ``seed`` gives the same queries; their interleaving depends on the clock."""

    observe: bool = False
    seconds: float = NATURAL_SECONDS
    seed: int = 0
    accounts: int = 24

    @property
    def mode(self) -> Mode:
        return "observe" if self.observe else "enforce"

    @property
    def tempo(self) -> float:
        """The factor by which pauses are stretched."""
        return self.seconds / NATURAL_SECONDS


@dataclass(frozen=True, slots=True)
class Script:
    """``accounts`` query the ``model`` at ``path`` with the honest rows of ``dataset``.

    ``theft``: the attack, in words. ``own_inputs``: the same thief with a budget for their own natural inputs alone;
    None where the attack uses none. ``leaves``: the number of leaves of the model; None where it is no tree. ``ring``:
    the thief behind the accounts ``traffic.RING``; None where there is no ring.
    """

    model: str
    path: str
    dataset: Dataset
    victim: Callable[[], Victim]
    accounts: Sequence[HonestAccount]
    theft: str
    thief: Callable[[], Attacker]
    promise: Promise
    own_inputs: Callable[[], Attacker] | None = None
    leaves: int | None = None
    ring: Callable[[], Attacker] | None = None


def scripts(options: DemoOptions) -> list[Script]:
    """Returns a network judged by ``prada`` at its defaults, and a tree judged by a profile."""
    return [_digits(options), _tumours(options)]


def _digits(options: DemoOptions) -> Script:
    dataset = digits.load_split()
    return Script(
        model=digits.MODEL,
        path=PREDICT,
        dataset=dataset,
        victim=lambda: digits.DigitsVictim(dataset.training),
        accounts=honest_accounts(options.accounts),
        theft="Jacobian augmentation",
        thief=lambda: jacobian_thief(dataset, options.seed),
        promise=Promise("prada", 400),
        own_inputs=lambda: jacobian_thief(dataset, options.seed, SEEDS),
    )


def _tumours(options: DemoOptions) -> Script:
    dataset = sklearn_table("breast cancer")
    victim = TreeVictim(dataset)
    return Script(
        model=TUMOURS_MODEL,
        path=TUMOURS + PREDICT,
        dataset=dataset,
        victim=lambda: victim,
        accounts=accounts_with(list(habits_of(dataset).values()), TABLE_ACCOUNTS),  # false alarms of prada included
        theft="path finding",
        thief=lambda: path_finding_thief(dataset, options.seed),
        promise=Promise("suspicion", 200),
        leaves=victim.leaves,
        ring=lambda: path_finding_thief(dataset, options.seed + _OTHERS),
    )


def profile_of_tumours(seed: int, read: ReadModel, progress: Callable[[int], None] | None = None) -> Profile:
    """Returns the profile of 36 honest users' queries in 50 seconds, the owner's tree and its training rows; a share of
    0.01 of honest accounts may be flagged. ``progress`` is called with the number of accounts replayed."""
    dataset = sklearn_table("breast cancer")
    victim = TreeVictim(dataset)
    model = read(victim.model)
    rows = dataset.training.features
    validation = Validation.of(rows, victim.answer(rows).labels)
    users = population(dataset, CALIBRATION_ACCOUNTS, seed + _OTHERS)
    accounts = [_queries(user.account, _rows(user.requests), victim) for user in users]
    calibration = calibrate(accounts, BUDGET, progress, OwnerInputs(model, validation))
    return replace(calibration.profile, crowd=crowd_of(calibration, accounts))


def _rows(requests: Iterator[HonestRequest]) -> NDArray[np.float32]:
    """Returns the rows of the first request, and of all that follow it in time."""
    rows, now = [next(requests).rows], 0.0
    for request in requests:
        now += request.pause
        if now > _CALIBRATION_SECONDS:
            break
        rows.append(request.rows)
    return np.concatenate(rows)


def _queries(account: str, rows: NDArray[np.float32], victim: Victim) -> QueryBatch:
    outputs = victim.answer(rows).probabilities
    queries = queries_of(TUMOURS_MODEL, victim.output_kind, [account] * len(rows), rows, outputs)
    return replace(queries, model_version=digits.MODEL_VERSION, occurred_at=np.zeros(len(rows)))
