"""What is played on each model of the demo: who uses it, who steals it, and what is promised of him."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from detector.lab.answers import Victim
from detector.lab.attackers.attacker import Attacker
from detector.lab.data import Dataset
from detector.lab.demo.options import DemoOptions
from detector.lab.demo.outcome import Promise
from detector.lab.honest.populations import habits_of
from detector.lab.population import HonestAccount, honest_accounts
from detector.lab.server import PREDICT, TUMOURS
from detector.lab.traffic import jacobian_thief, path_finding_thief
from detector.lab.victims import digits, tumours

TABLE_ACCOUNTS = 12


@dataclass(frozen=True, slots=True)
class Script:
    """``accounts`` use the ``model`` at ``path`` with rows that ``dataset`` has for honest users. ``theft``: what its
    thief does, in words. ``leaves``: of the model, None where it is no tree."""

    model: str
    path: str
    dataset: Dataset
    victim: Callable[[], Victim]
    accounts: Sequence[HonestAccount]
    theft: str
    thief: Callable[[], Attacker]
    promise: Promise
    leaves: int | None = None


def scripts(options: DemoOptions) -> list[Script]:
    """A network that is judged by ``prada`` at its defaults, and a tree that is judged by a profile."""
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
    )


def _tumours(options: DemoOptions) -> Script:
    dataset = tumours.load()
    victim = tumours.victim(dataset)
    return Script(
        model=tumours.MODEL,
        path=TUMOURS + PREDICT,
        dataset=dataset,
        victim=lambda: victim,
        accounts=table_accounts(dataset, TABLE_ACCOUNTS),
        theft="path finding",
        thief=lambda: path_finding_thief(dataset, options.seed),
        promise=Promise("suspicion", 200),
        leaves=victim.leaves,
    )


def table_accounts(dataset: Dataset, accounts: int) -> list[HonestAccount]:
    """Honest users of ``dataset``; every habit comes round in turn, those that ``prada`` takes for theft included."""
    seen: Counter[str] = Counter()
    made = []
    for number, habit in enumerate(islice(cycle(habits_of(dataset).values()), accounts)):
        seen[habit.name] += 1
        made.append(HonestAccount(f"{habit.name.replace(' ', '-')}-{seen[habit.name]}", habit, number))
    return made
