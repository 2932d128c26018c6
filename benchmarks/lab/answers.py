"""What rounding and labels alone do to theft: each family of attacks on a victim of its kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab._cases import ANSWERS, CASE_SEEDS, CASES, served_by
from benchmarks.lab._markdown import percents, table
from benchmarks.lab._networks import BUDGETS, SEEDS, clone_of
from benchmarks.lab._workers import Workers
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge, run_offline
from detector.lab.attackers.input_space import InputSpace
from detector.lab.datasets import DATASETS
from detector.lab.fidelity import UNIFORM_ROWS, Yardstick
from detector.lab.victims.digits import DigitsVictim, load_split
from detector.lab.victims.tabular import TreeVictim
from tests.lab.coarser import Rounded

LESS, SAME, UNKNOWN = "less", "the same", ""
WITHIN = 0.01
"""Differences of agreement below a point are not told from none."""

_ALL_DIGITS = 15
_PLENTY = 100_000


class Row(NamedTuple):
    """``published``: how much is stolen the less an API says."""

    attack: str
    victim: str
    budget: int
    published: str


LOGISTIC, SOFTMAX, _, TANH, _ = CASES
DIGITS = "network, digits"
TREES = {f"tree, {name}": name for name in ("breast cancer", "categorical", "digits")}

ON_CASES = [
    Row("equation solving", LOGISTIC, 31, LESS),
    Row("equation solving", LOGISTIC, 310, LESS),
    Row("equation solving", SOFTMAX, 650, LESS),
    Row("equation solving mlp", TANH, 343, LESS),
    Row("lowd-meek", LOGISTIC, 930, SAME),
    *(Row(f"{how} retraining", LOGISTIC, 930, SAME) for how in ("uniform", "line-search", "adaptive")),
]
ON_TREES = [Row("path finding bottom-up", tree, _PLENTY, LESS) for tree in TREES]
ON_DIGITS = [
    Row("rbf-svm retraining", DIGITS, BUDGETS["rbf-svm retraining"], SAME),
    *(Row(attack, DIGITS, BUDGETS[attack], LESS) for attack in ("uniform inputs", "jbda", "knockoff random")),
    Row("copycat", DIGITS, BUDGETS["copycat"], SAME),
    Row("cloudleak featurefool", DIGITS, BUDGETS["cloudleak featurefool"], UNKNOWN),
]

Agreements = tuple[float, float]
"""1 - R_test and 1 - R_unif."""

Stolen = Callable[[Row, str, int], Agreements]
"""(row, one of ``ANSWERS``, seed) -> how much the clone agrees with the victim."""


def from_network(row: Row, answers: str, seed: int) -> Agreements:
    split = load_split()
    victim = DigitsVictim(split.training)
    clone = clone_of(served_by(victim, answers), split, row.attack, row.budget, seed)
    fidelity = Yardstick.of(victim, split, seed).measure(clone, row.budget)
    return fidelity.test, fidelity.uniform


def from_tree(row: Row, answers: str, seed: int) -> Agreements:
    """Nodes are not told, not even where answers are exact: label and confidence stand for them."""
    dataset = DATASETS[TREES[row.victim]]()
    tree, knowledge = TreeVictim(dataset), Knowledge.of(dataset)
    thief = ATTACKS[row.attack](knowledge, row.budget, seed)
    queries = run_offline(thief, Rounded(tree, _ALL_DIGITS) if answers == "exact" else served_by(tree, answers))
    uniform = InputSpace.of(knowledge).uniform(UNIFORM_ROWS, np.random.default_rng(5))
    fidelity = Yardstick(tree, dataset.test.features, uniform).measure(thief.clone(), queries)
    return fidelity.test, fidelity.uniform


def from_case(row: Row, answers: str, seed: int) -> Agreements:
    case = CASES[row.victim]()
    thief = ATTACKS[row.attack](case.knowledge, row.budget, seed)
    run_offline(thief, served_by(case.victim, answers))
    return case.agreements(thief.clone())


def tables(workers: Workers) -> str:
    lines = [
        *_lines(workers, from_case, ON_CASES, CASE_SEEDS),
        *_lines(workers, from_tree, ON_TREES, SEEDS),
        *_lines(workers, from_network, ON_DIGITS, SEEDS),
    ]
    return table(("attack", "victim", "queries", *ANSWERS, "published", "holds"), lines)


def _lines(workers: Workers, stolen: Stolen, rows: list[Row], seeds: Sequence[int]) -> list[tuple[str, ...]]:
    means = workers.means(stolen, [(row, answers) for row in rows for answers in ANSWERS], seeds)
    agreed = np.reshape(means, (len(rows), len(ANSWERS), 2))
    return [_line(row, each) for row, each in zip(rows, agreed, strict=True)]


def _line(row: Row, agreed: NDArray[np.float64]) -> tuple[str, ...]:
    queries = "all" if row.budget == _PLENTY else f"{row.budget:,}"
    holds = verdict(row.published, agreed[:, 0])
    return row.attack, row.victim, queries, *(percents(*each) for each in agreed.tolist()), row.published, holds


def verdict(published: str, agreed: NDArray[np.float64]) -> str:
    """Whether ``agreed`` (5,), 1 - R_test by what is told from all to least, goes as ``published``."""
    if published == SAME:
        return "yes" if np.ptp(agreed) < WITHIN else "no"
    if published == UNKNOWN:
        return ""
    if agreed[-1] > agreed[0] - WITHIN:
        return "no"
    return "yes" if (np.diff(agreed) < WITHIN).all() else "not in order"
