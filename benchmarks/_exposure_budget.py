"""What an exposure budget leaves to the thief who asks the victim's own kind of inputs, and what it costs honest
accounts, through engine, ledger and the gate's token bucket, on a simulated clock.

Honest accounts have the habits of the lab, and ask as many rows in their life as a lognormal distribution says. The
budget for life is what one in two hundred of half of them exceeds; the other half is judged. Above it an account is
slowed, and refused after ten more answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from benchmarks.lab._workers import workers
from benchmarks.response_strength import clones_at, natural
from detector.contracts.actions import name_of
from detector.contracts.batches import take
from detector.contracts.findings import Action
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import calibrate
from detector.core.calibration.crossfit import OwnerInputs
from detector.core.engine import Engine, EngineConfig
from detector.core.exposure import EFFECTIVE_QUERIES, Validation
from detector.core.profile import Profile
from detector.lab.answers import Victim
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Attacker, Knowledge
from detector.lab.data import Dataset
from detector.lab.experiment import queries_of, victim_of
from detector.lab.fidelity import Yardstick
from detector.lab.honest import population
from detector.policy.budgets import BUDGET, ExposureBudget
from detector.policy.config import Policy
from detector.policy.ladder import LadderRule, Rung
from detector.policy.ledger import Ledger
from detector.serving.decisions import TokenBucket
from detector.stream.detector import DetectionInput, Detector

VICTIMS = (
    ("multilayer perceptron", "mnist"),
    ("convolutional network", "mnist"),
    ("random forest", "mnist"),
    ("multilayer perceptron", "digits"),
)
FEW, MORE = 10, (30, 100)
"""Rows that half of the honest accounts ask less of: for all victims, and for the first one besides."""
SPREAD = 0.7
ACCOUNTS, CALIBRATING, ROWS = 800, 24, 100
EXCEEDED = 0.005
ATTACK, WANTED = "knockoff random", 2_000
SECONDS, PAUSE = 86_400.0, 1.0
RATE, FURTHER = 0.001, 10
SEEDS = (0,)
_START = 1_700_000_000.0


class Outcome(NamedTuple):
    """``limit`` in effective queries; ``honest`` accounts judged, those of them ever ``slowed`` and ``told``; the
    thief's ``answers`` and fidelity, 0 to 1, ``free`` and under the ``budget``."""

    limit: float
    honest: int
    slowed: int
    told: int
    answers: int
    free: float
    budget: float


def outcome(victim: str, dataset: str, median: int, seed: int) -> Outcome:
    data, model = victim_of(dataset, victim)
    accounts = honest_accounts(data, model, median, seed)
    profile = profile_of(data, model, seed)
    engine = Engine(EngineConfig(profiles=(profile,)))
    seen = [engine.observe([account]).signals[EFFECTIVE_QUERIES][-1] for account in accounts[::2]]
    limit = float(np.ceil(np.quantile(seen, 1 - EXCEEDED)))
    detector = detector_of(profile, limit)
    judged = [decisions(account, detector) for account in accounts[1::2]]
    pool = natural(data)
    wanted = min(WANTED, len(pool))
    answers = answers_of(asked(ATTACKS[ATTACK](Knowledge.of(data, pool), wanted, seed), model), model, profile, limit)
    yardstick = Yardstick.of(model, data, seed)
    clones = clones_at(ATTACKS[ATTACK](Knowledge.of(data, pool), wanted, seed), model, [answers, wanted])
    budget, free = (yardstick.measure(clone, 0).test for clone in clones)
    slowed = sum("slow" in own or "refuse" in own for own in judged)
    return Outcome(limit, len(judged), slowed, sum("notice" in own for own in judged), answers, free, budget)


def honest_accounts(data: Dataset, model: Victim, median: int, seed: int) -> list[QueryBatch]:
    """One batch an account: what it asks in its life."""
    rng = np.random.default_rng([seed, 5])
    lengths = np.ceil(rng.lognormal(math.log(median), SPREAD, ACCOUNTS)).astype(int)
    return [
        _batch(model, user.account, np.concatenate([one.rows for one in islice(user.requests, length)])[:length])
        for user, length in zip(population(data, ACCOUNTS, seed), lengths.tolist(), strict=True)
    ]


def _batch(model: Victim, name: str, rows: np.ndarray) -> QueryBatch:
    return queries_of("m", model.output_kind, [name] * len(rows), rows, model.answer(rows).probabilities)


def profile_of(data: Dataset, model: Victim, seed: int) -> Profile:
    """Of accounts that ask more, so that there is something to compare with."""
    users = population(data, CALIBRATING, seed + 100)
    accounts = [
        _batch(model, user.account, np.concatenate([one.rows for one in islice(user.requests, ROWS)])[:ROWS])
        for user in users
    ]
    rows = data.training.features
    owner = OwnerInputs(None, Validation.of(rows, model.probabilities(rows).argmax(axis=1)))
    return calibrate(accounts, 0.01, owner=owner).profile


def detector_of(profile: Profile, limit: float) -> Detector:
    rungs = (Rung(0, Action("slow", RATE)), Rung(FURTHER, Action("refuse")))
    ladder = (LadderRule("budget", rungs, signals=(BUDGET,), review=True),)
    policy = Policy(mode="enforce", ladder=ladder, budgets=(ExposureBudget("all", for_life=limit),))
    return Detector(Engine(EngineConfig(profiles=(profile,))), Ledger(policy))


def decisions(account: QueryBatch, detector: Detector) -> set[str]:
    """The actions ever taken against the account."""
    effects = detector.detect(DetectionInput([account], np.full(len(account), _START)))[1]
    return {name_of(decision.action) for decision in effects.decisions}


def asked(thief: Attacker, model: Victim) -> np.ndarray:
    """All that ``thief`` asks of the unguarded ``model``; who draws from a pool asks the same whatever the answers."""
    batches = []
    while len(batch := thief.next_batch()):
        batches.append(batch)
        thief.observe(batch, model.answer(batch))
    return np.concatenate(batches)


def answers_of(rows: np.ndarray, model: Victim, profile: Profile, limit: float) -> int:
    """How many of ``rows`` (n, d) the thief gets answers to in a day who asks again as soon as the gate says."""
    detector, queries = detector_of(profile, limit), _batch(model, "thief", rows)
    bucket, now, answered = None, _START, 0
    while answered < len(rows) and now < _START + SECONDS:
        if bucket is not None and (wait := bucket.take(now)):
            now += wait
            continue
        part = take(queries, np.array([answered]))
        answered += 1
        for decision in detector.detect(DetectionInput([part], np.array([now])))[1].decisions:
            name = name_of(decision.action)
            if name == "refuse":
                return answered
            if name == "slow" and bucket is None:
                bucket = TokenBucket(RATE)
        now += PAUSE
    return answered


COLUMNS = (
    "victim",
    "honest median",
    "budget",
    "honest slowed, %",
    "honest told, %",
    "answers",
    "fidelity, no budget",
    "with budget",
    "points lost",
)


def lines() -> list[Sequence[str]]:
    calls = [*((*victim, FEW) for victim in VICTIMS), *((*VICTIMS[0], median) for median in MORE)]
    with workers("budget") as pool:
        figures = pool.means(outcome, calls, SEEDS)
    return [
        (
            f"{victim} on {dataset}",
            str(median),
            f"{limit:.0f}",
            f"{100 * slowed / honest:.2f}",
            f"{100 * told / honest:.2f}",
            f"{answers:.0f}",
            f"{100 * free:.1f}",
            f"{100 * budget:.1f}",
            f"{100 * (free - budget):.1f}",
        )
        for (victim, dataset, median), (limit, honest, slowed, told, answers, free, budget) in zip(
            calls, figures, strict=True
        )
    ]
