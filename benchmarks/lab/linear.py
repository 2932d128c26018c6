"""The attacks of Tramèr et al. (2016) on linear and smooth models."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.lab._cases import CASE_SEEDS, CASES, served_by
from benchmarks.lab._markdown import percent, table
from benchmarks.lab._workers import Workers
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import run_offline

PLENTY = 5_650
"""What the dearest model took of Lowd-Meek in that paper."""


class Row(NamedTuple):
    """``queries`` is a limit; ``note`` says what it is of the model's size. ``victim``: see ``CASES``."""

    attack: str
    victim: str
    answers: str
    queries: int
    note: str = ""


def _rows(attack: str, victim: str, answers: str, *queries: int) -> list[Row]:
    return [Row(attack, victim, answers, each) for each in queries]


LOGISTIC, SOFTMAX, WINE, TANH, MOONS = CASES

ROWS = [
    Row("equation solving", LOGISTIC, "exact", 31, "d + 1"),
    *_rows("equation solving", LOGISTIC, "4 digits", 31, 310),
    *_rows("equation solving", LOGISTIC, "2 digits", 31, 310),
    *_rows("equation solving", LOGISTIC, "label only", 31, 310),
    Row("equation solving", SOFTMAX, "exact", 650, "c(d + 1)"),
    *_rows("equation solving", SOFTMAX, "2 digits", 650),
    *_rows("equation solving", SOFTMAX, "label only", 650),
    Row("equation solving mlp", TANH, "exact", 85, "k / 4"),
    Row("equation solving mlp", TANH, "exact", 343, "k"),
    Row("equation solving mlp", TANH, "exact", 686, "2 k"),
    *_rows("equation solving mlp", TANH, "2 digits", 343),
    *_rows("equation solving mlp", TANH, "label only", 343),
    *_rows("lowd-meek", LOGISTIC, "label only", PLENTY),
    *_rows("uniform retraining", LOGISTIC, "label only", 930, 1_860),
    *_rows("line-search retraining", LOGISTIC, "label only", 930, 1_860),
    *_rows("adaptive retraining", LOGISTIC, "label only", 930, 1_860),
    *_rows("uniform retraining", WINE, "label only", 420),
    *_rows("line-search retraining", WINE, "label only", 420),
    *_rows("adaptive retraining", WINE, "label only", 420),
    *_rows("rbf-svm retraining", MOONS, "label only", 20, 200),
    *_rows("adaptive retraining", MOONS, "label only", 200),
]


def stolen(row: Row, seed: int) -> tuple[float, float, float, float]:
    """Queries made, 1 - R_test, 1 - R_unif, and R_unif by total variation."""
    case = CASES[row.victim]()
    thief = ATTACKS[row.attack](case.knowledge, row.queries, seed)
    queries = run_offline(thief, served_by(case.victim, row.answers))
    clone = thief.clone()
    return queries, *case.agreements(clone), case.variations(clone)[1]


def tables(workers: Workers) -> str:
    means = workers.means(stolen, [(row,) for row in ROWS], CASE_SEEDS)
    columns = ("attack", "victim", "answers", "queries", "1 - R_test", "1 - R_unif", "R_unif by total variation")
    return table(columns, [_line(row, *each.tolist()) for row, each in zip(ROWS, means, strict=True)])


def _line(row: Row, queries: float, test: float, uniform: float, variation: float) -> tuple[str, ...]:
    asked = f"{queries:,.0f} = {row.note}" if row.note else f"{queries:,.0f}"
    told = "" if row.answers == "label only" else f"{variation:.0e}" if variation < 1e-4 else f"{variation:.1g}"
    return row.attack, row.victim, row.answers, asked, percent(test), percent(uniform), told
