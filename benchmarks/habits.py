"""How each habit of honest users fares: flagged by `prada` alone, by a profile that knows the habit, and by one that
does not.

The digits are read by a multilayer perceptron, the table with categories by a decision tree. Every profile is made from
two accounts of each habit, and for the last column from all but those of that habit; ten others of each are judged.
Every account holds a third of the honest rows, so that those judged differ from the calibration's as these do from each
other. An account asks 300 queries, or as many as its habit is to. Run: python -m benchmarks.habits
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks._detecting import Account, Rows, Verdict, account, judge
from benchmarks.lab._markdown import table
from detector.core.calibration.calibrate import FlaggedRate, calibrate
from detector.core.profile import Profile
from detector.lab.data import Examples
from detector.lab.experiment import dataset_of, victim_of
from detector.lab.honest import habits_of
from detector.lab.honest.habit import HonestRequest

TARGETS = (("digits", "multilayer perceptron"), ("categorical", "decision tree"))
CALIBRATION, JUDGED = 2, 10
"""Accounts of each habit."""
QUERIES = 300
BUDGET = 0.01
SEED = 31
_TOLD = 3

COLUMNS = ("habit", "`prada` alone", "known", "not known", "median query", "told by")

Target = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Fared:
    """Of one habit: the verdicts on its accounts by `prada` alone, and by the profiles that know it and do not."""

    habit: str
    alone: Sequence[Verdict]
    known: Sequence[Verdict]
    unknown: Sequence[Verdict]

    @property
    def cells(self) -> list[str]:
        named = Counter(name for verdict in self.unknown for name in verdict.evidence)
        first = [verdict.first for verdict in self.unknown if verdict.first]
        return [
            self.habit,
            *map(_flagged, (self.alone, self.known, self.unknown)),
            f"{np.median(first):.0f}" if first else "",
            ", ".join(name for name, _ in named.most_common(_TOLD)),
        ]


def _flagged(verdicts: Sequence[Verdict]) -> str:
    count = _count(verdicts)
    said = f"{count} of {len(verdicts)}"
    return f"**{said}**" if count else said


def _count(verdicts: Sequence[Verdict]) -> int:
    return sum(verdict.first is not None for verdict in verdicts)


@lru_cache
def accounts(target: Target, each: int, seed: int, half: int | None = None) -> list[Account]:
    """Returns ``each`` accounts of every habit. Each holds a random third of the honest rows; or, with ``half``, every
    second one from there on, the same for all."""
    dataset, victim = victim_of(*target)
    made = []
    for number, habit in enumerate(list(habits_of(dataset).values()) * each):
        rng = np.random.default_rng([seed, number])
        held = _a_third(dataset.honest, rng) if half is None else _half(dataset.honest, half)
        rows = _asked(habit.behaviour(held, rng))
        made.append(account(f"{habit.name} {number}", habit.name, rows, victim.answer(rows).probabilities))
    return made


def _a_third(held: Examples, rng: np.random.Generator) -> Examples:
    chosen = rng.choice(len(held), len(held) // 3, replace=False)
    return Examples(held.features[chosen], held.labels[chosen])


def _half(held: Examples, first: int) -> Examples:
    return Examples(held.features[first::2], held.labels[first::2])


def _asked(asks: Iterator[HonestRequest]) -> Rows:
    rows: list[Rows] = []
    for ask in asks:
        rows.append(ask.rows)
        if sum(map(len, rows)) >= QUERIES:
            break
    return np.concatenate(rows)[:QUERIES]


def profile(target: Target, without: str | None = None, half: int | None = None) -> Profile:
    """Made from the calibration's accounts, without those of one habit."""
    honest = [own.queries for own in accounts(target, CALIBRATION, SEED, half) if own.kind != without]
    return calibrate(honest, BUDGET).profile


def judged(
    target: Target, by: Profile | None, habit: str | None = None, half: int | None = None
) -> dict[str, list[Verdict]]:
    """The verdicts on the accounts of ``habit``, or all, by habit."""
    found: dict[str, list[Verdict]] = {}
    for own in accounts(target, JUDGED, SEED + 1, half):
        if habit in (None, own.kind):
            found.setdefault(own.kind, []).append(judge(own, by))
    return found


def by_prada(target: Target) -> dict[str, list[Verdict]]:
    return judged(target, None)


def by_one_that_knows(target: Target) -> dict[str, list[Verdict]]:
    return judged(target, profile(target))


def by_one_of_others_rows(target: Target) -> dict[str, list[Verdict]]:
    """By one whose accounts all hold the one half of the rows, and the judged ones the other."""
    return judged(target, profile(target, half=0), half=1)


def by_one_that_does_not(target: Target, habit: str) -> list[Verdict]:
    return judged(target, profile(target, habit), habit)[habit]


def measured(target: Target, pool: ProcessPoolExecutor, progress: Progress) -> str:
    """The table of all habits, and how many accounts were flagged in all."""
    names = list(habits_of(dataset_of(target[0])))
    task = progress.add_task(" by ".join(target), total=len(names) + 3)
    alone, known, others = (
        pool.submit(judging, target) for judging in (by_prada, by_one_that_knows, by_one_of_others_rows)
    )
    unknown = {name: pool.submit(by_one_that_does_not, target, name) for name in names}
    waited: list[Future[Any]] = [alone, known, others, *unknown.values()]
    for future in waited:
        future.add_done_callback(lambda _: progress.advance(task))
    rows = [Fared(name, alone.result()[name], known.result()[name], unknown[name].result()) for name in names]
    return "\n".join(
        [
            f"{', '.join(target)}\n",
            table(COLUMNS, [row.cells for row in rows]),
            f"\nknown, all habits: {_rate(known.result())}",
            f"known, but the rows are none of the calibration's: {_rate(others.result())}\n",
        ]
    )


def _rate(verdicts: dict[str, list[Verdict]]) -> str:
    every = [verdict for own in verdicts.values() for verdict in own]
    low, high = FlaggedRate(_count(every), len(every)).interval
    return f"{_count(every)} of {len(every)} (95 percent interval {low:.1%} to {high:.1%}){_named(verdicts)}"


def _named(verdicts: dict[str, list[Verdict]]) -> str:
    counts = {name: count for name, verdict in verdicts.items() if (count := _count(verdict))}
    return "".join(f", {count} {name}" for name, count in counts.items())


def main() -> None:
    started = time.monotonic()
    with (
        Progress(console=Console(stderr=True)) as progress,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
    ):
        for told in [measured(target, pool, progress) for target in TARGETS]:
            print(told)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
