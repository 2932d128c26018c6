"""What an exposure budget leaves to the thief who asks the victim's own kind of inputs, and what it costs honest
accounts, through engine, ledger and the gate's token bucket, on a simulated clock.

Honest accounts have the habits of the lab, and ask as many rows in their life as a lognormal distribution says. The
budget for life is what one in two hundred of half of them exceeds; the other half is judged. Above it an account is
slowed, and refused after ten more answers. Then a thief with ten accounts of one organisation, whose rows they ask in
turn, under the same budget per account, and under one per organisation: the mean of what ten honest accounts ask, and
three standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
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
TOGETHER = 10
"""Accounts of an organisation."""
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
    account = ExposureBudget("all", for_life=limit)
    detector = detector_of(profile, account)
    judged = [decisions(account, detector) for account in accounts[1::2]]
    pool = natural(data)
    wanted = min(WANTED, len(pool))
    rows = asked(ATTACKS[ATTACK](Knowledge.of(data, pool), wanted, seed), model)
    answers = answers_of(rows, model, detector_of(profile, account))
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


def detector_of(profile: Profile, *budgets: ExposureBudget) -> Detector:
    rungs = (Rung(0, Action("slow", RATE)), Rung(FURTHER, Action("refuse")))
    ladder = (LadderRule("budget", rungs, signals=(BUDGET,), review=True),)
    policy = Policy(mode="enforce", ladder=ladder, budgets=budgets)
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


def answers_of(rows: np.ndarray, model: Victim, detector: Detector, accounts: int = 1) -> int:
    """How many of ``rows`` (n, d) thieves get answers to in a day who ask in turn, each again as soon as the gate
    says."""
    names = [f"thief-{number}" for number in range(accounts)]
    queries = replace(_batch(model, "thief", rows), organisation=["thieves"] * len(rows))
    free_at, buckets = dict.fromkeys(names, _START), dict[str, TokenBucket]()
    answered = 0
    while answered < len(rows) and free_at and (now := min(free_at.values())) < _START + SECONDS:
        name = min(free_at, key=lambda own: (free_at[own], own))
        if name in buckets and (wait := buckets[name].take(now)):
            free_at[name] = now + wait
            continue
        part = replace(take(queries, np.array([answered])), principals=[name])
        answered, free_at[name] = answered + 1, now + PAUSE
        for decision in detector.detect(DetectionInput([part], np.array([now])))[1].decisions:
            action = name_of(decision.action)
            if action == "refuse":
                free_at.pop(decision.principal, None)
            elif action == "slow":
                buckets.setdefault(decision.principal, TokenBucket(RATE))
    return answered


SHARED_COLUMNS = ("budget", "effective queries", "honest organisations above it, %", "answers", "fidelity")


def shared_lines() -> list[Sequence[str]]:
    """The thief with accounts of one organisation, on the first victim, without a budget and with either."""
    victim, dataset = VICTIMS[0]
    data, model = victim_of(dataset, victim)
    accounts = honest_accounts(data, model, FEW, 0)
    profile = profile_of(data, model, 0)
    engine = Engine(EngineConfig(profiles=(profile,)))
    life = np.array([engine.observe([account]).signals[EFFECTIVE_QUERIES][-1] for account in accounts])
    firms = life.reshape(-1, TOGETHER)
    each = float(np.ceil(np.quantile(life[::2], 1 - EXCEEDED)))
    totals = firms[::2].sum(axis=1)
    firm = float(np.ceil(totals.mean() + 3 * totals.std()))
    rows = asked(ATTACKS[ATTACK](Knowledge.of(data, natural(data)), WANTED, 0), model)
    found: list[tuple[str, str, str, int]] = [("none", "", "", len(rows))]
    for what, limit, above in (
        ("per account", each, (firms[1::2] > each).any(axis=1)),
        ("per organisation", firm, firms[1::2].sum(axis=1) > firm),
    ):
        budget = ExposureBudget("all", for_life=limit, per="organisation" if "org" in what else "account")
        answers = answers_of(rows, model, detector_of(profile, budget), TOGETHER)
        found.append((what, f"{limit:.0f}", f"{100 * above.mean():.1f}", answers))
    thief = ATTACKS[ATTACK](Knowledge.of(data, natural(data)), WANTED, 0)
    yardstick, lengths = Yardstick.of(model, data, 0), sorted({entry[-1] for entry in found})
    clones = dict(zip(lengths, clones_at(thief, model, lengths), strict=True))
    return [
        (*texts, f"{answers:,}", f"{100 * yardstick.measure(clones[answers], 0).test:.1f}") for *texts, answers in found
    ]


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
