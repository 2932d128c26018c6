"""Unlabelled logs of one model for the benchmark of ``scan``: honest accounts of all habits of the lab and of two more,
and thieves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks._detecting import Account, Rows, account
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.data import Dataset
from detector.lab.experiment import thief_trace, victim_of
from detector.lab.fidelity import Yardstick
from detector.lab.honest import population
from detector.lab.session import AttackSession, InProcess, checkpoints
from detector.lab.wrappers import PLAIN, WRAPPERS
from tests.lab.textures import textures

LENGTHS = (300, 500, 120)
"""Queries of the honest accounts, in turn, at most."""
STOLEN = 1_000
_PAUSE, _POOL = 0.1, 3_000
_LEVELS = 10

Target = tuple[str, str]


def honest(target: Target, count: int, seed: int) -> list[Account]:
    """``count`` honest accounts of the model ``target``; of thirty, one prices grids and one tests extreme values."""
    dataset, victim = victim_of(*target)
    users = iter(population(dataset, count, seed))
    made = []
    for number in range(count):
        rng, most = np.random.default_rng([seed, 7, number]), LENGTHS[number % len(LENGTHS)]
        own = _MORE.get(number % 30)
        if own is None:
            user = next(users)
            name, rows = user.habit, _first((ask.rows for ask in user.requests), most)
        else:
            name, rows = own.__name__, own(dataset, rng)[:most]
        made.append(account(f"{name} {number}", name, rows, victim.answer(rows).probabilities))
    return made


def grids(dataset: Dataset, rng: np.random.Generator) -> Rows:
    """Prices: of a few customers, every pair of the values that two features take."""
    held = dataset.honest.features
    rows = []
    for base in held[rng.choice(len(held), 4, replace=False)]:
        one, two = rng.choice(held.shape[1], 2, replace=False)
        axes = (np.quantile(held[:, at], np.linspace(0.05, 0.95, _LEVELS), method="nearest") for at in (one, two))
        grid = np.tile(base, (_LEVELS**2, 1))
        grid[:, [one, two]] = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
        rows.append(grid)
    return np.concatenate(rows)


def quality(dataset: Dataset, rng: np.random.Generator) -> Rows:
    """Tests: honest rows, of which one in five has a feature at an end of its range."""
    rows = dataset.honest.features[rng.choice(len(dataset.honest), 300)]
    own = np.flatnonzero(rng.random(len(rows)) < 0.2)
    at = rng.integers(0, rows.shape[1], len(own))
    rows[own, at] = np.where(rng.random(len(own)) < 0.5, dataset.low[at], dataset.high[at])
    return rows


_MORE: dict[int, Callable[[Dataset, np.random.Generator], Rows]] = {11: grids, 23: quality}


def thief(target: Target, attack: str, seed: int, wrapper: str = PLAIN, queries: int = STOLEN) -> list[Account]:
    """The accounts under which ``attack`` asks ``queries`` of ``target``, one unless ``wrapper`` splits them."""
    dataset, victim = victim_of(*target)
    pool = None if dataset.side is None else textures(_POOL, dataset.side, seed)
    knowledge = Knowledge.of(dataset, pool)
    disguise = WRAPPERS[wrapper](dataset, _PAUSE, seed)
    yardstick = Yardstick.of(victim, dataset, 0)
    course = AttackSession(
        ATTACKS[attack](knowledge, queries, seed), InProcess(victim), disguise, yardstick, checkpoints(1)
    )
    course.run()
    trace = thief_trace(attack, course)
    names = np.array(trace.accounts)
    return [
        account(f"{attack} {seed} {name}", attack, trace.features[names == name], trace.outputs[names == name])
        for name in dict.fromkeys(trace.accounts)
    ]


def unnamed(accounts: Sequence[Account], rng: np.random.Generator) -> list[Account]:
    """The same in random order under names that tell nothing."""
    order = rng.permutation(len(accounts)).tolist()
    return [_renamed(accounts[at], f"key-{number:04}") for number, at in enumerate(order)]


def _renamed(own: Account, name: str) -> Account:
    return Account(name, own.kind, replace(own.queries, principals=[name]))


def _first(asks: Iterator[Rows], most: int) -> Rows:
    rows: list[Rows] = []
    for asked in asks:
        rows.append(asked)
        if sum(map(len, rows)) >= most:
            break
    return np.concatenate(rows)[:most]
