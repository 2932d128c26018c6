"""Who takes part: honest accounts with their habits, and one thief."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, cycle, islice

from detector.lab.honest import HABITS
from detector.lab.honest.habit import Habit

THIEF = "mallory"
THIEF_HABIT = "thief"

_MIX = (
    "steady", "bursts", "retries", "bulk", "scanner", "shift", "rotation", "one class", "drawing", "light",
    "steady", "blur", "contrast", "several views", "health check", "short what-if",
)  # fmt: skip
"""Habits in the order in which accounts are given them, again and again."""


@dataclass(frozen=True, slots=True)
class HonestAccount:
    name: str
    habit: Habit
    number: int
    """Seeds the account's own generator, together with the seed of the run."""


def honest_accounts(accounts: int) -> list[HonestAccount]:
    """``accounts`` honest users, none with a habit that is a known false alarm."""
    seen = {name: count(1) for name in HABITS}
    names = islice(cycle(_MIX), accounts)
    return [
        HonestAccount(f"{habit.replace(' ', '-')}-{next(seen[habit])}", HABITS[habit], number)
        for number, habit in enumerate(names)
    ]


def known_false_alarms() -> list[Habit]:
    """Honest habits that ``prada`` alone, at its defaults, takes for theft."""
    return [habit for habit in HABITS.values() if habit.false_alarm]
