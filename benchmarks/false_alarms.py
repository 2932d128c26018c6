"""Which honest habits `prada` alone takes for theft, at its defaults: users of the digits' network, by the simulated
clock of their pauses.

A hundred seeds of one minute and ten of five minutes for each habit, and twenty of the Jacobian thief. Run: python -m
benchmarks.false_alarms
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

from dataclasses import dataclass
from statistics import median

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks._detecting import Rows, account, judge
from benchmarks.lab._markdown import table
from detector.lab.data import Dataset
from detector.lab.honest import HABITS
from detector.lab.honest.habit import Habit
from detector.lab.traffic import jacobian_thief
from detector.lab.victims.digits import DigitsVictim, load_split

MINUTE, MINUTES = 60.0, 300.0
SEEDS = {MINUTE: 100, MINUTES: 10}
THIEVES, BUDGET = 20, 400
ANSWER_SECONDS = 0.01

COLUMNS = ("habit", "flagged, one minute", "flagged, five minutes", "first flagged query, median")


@dataclass(frozen=True, slots=True)
class Bench:
    """The data and the model that all of them ask."""

    data: Dataset
    victim: DigitsVictim

    def first_flagged(self, rows: Rows) -> int | None:
        """The query of the first verdict on an account that asks ``rows``, from 1."""
        outputs = self.victim.probabilities(rows).astype(np.float32)
        return judge(account("somebody", "", rows, outputs), None).first

    def of_habit(self, habit: Habit, seconds: float) -> list[int | None]:
        return [self.first_flagged(self._asked(habit, seconds, seed)) for seed in range(SEEDS[seconds])]

    def of_thieves(self) -> list[int | None]:
        found = []
        for seed in range(THIEVES):
            thief, parts = jacobian_thief(self.data, seed=seed, budget=BUDGET), []
            while len(batch := thief.next_batch()):
                parts.append(batch)
                thief.observe(batch, self.victim.answer(batch))
            found.append(self.first_flagged(np.concatenate(parts).astype(np.float32)))
        return found

    def _asked(self, habit: Habit, seconds: float, seed: int) -> Rows:
        now, parts = 0.0, []
        for ask in habit.behaviour(self.data.honest, np.random.default_rng(seed)):
            now += ask.pause + ANSWER_SECONDS
            if now > seconds:
                break
            parts.append(ask.rows)
        return np.concatenate(parts)


def cells(name: str, minute: list[int | None], minutes: list[int | None]) -> tuple[str, ...]:
    """One row of the table."""
    at = [first for first in minutes or minute if first is not None]
    return (name, _share(minute), _share(minutes), f"{median(at):.0f}" if at else "")


def _share(firsts: list[int | None]) -> str:
    caught = sum(first is not None for first in firsts)
    return "" if not firsts else f"**{caught} of {len(firsts)}**" if caught else f"0 of {len(firsts)}"


def main() -> None:
    data = load_split()
    bench = Bench(data, DigitsVictim(data.training))
    with Progress(console=Console(stderr=True)) as progress:
        rows = [
            cells(habit.name, bench.of_habit(habit, MINUTE), bench.of_habit(habit, MINUTES))
            for habit in progress.track(HABITS.values(), description="habits")
        ]
    print(table(COLUMNS, [*rows, cells(f"the thief, {BUDGET} queries", bench.of_thieves(), [])]))


if __name__ == "__main__":
    main()
