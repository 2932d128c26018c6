"""What happens on each model of the demo: its honest users, its thief, and what the demo promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from detector.lab.answers import Victim
from detector.lab.attackers.attacker import Attacker
from detector.lab.attackers.substitute import SEEDS
from detector.lab.data import Dataset
from detector.lab.datasets import breast_cancer
from detector.lab.demo.options import DemoOptions
from detector.lab.demo.outcome import Promise
from detector.lab.honest import habits_of
from detector.lab.population import HonestAccount, honest_accounts
from detector.lab.server import PREDICT, TUMOURS, TUMOURS_MODEL
from detector.lab.traffic import jacobian_thief, path_finding_thief
from detector.lab.victims import digits
from detector.lab.victims.tabular import TreeVictim

TABLE_ACCOUNTS = 12


@dataclass(frozen=True, slots=True)
class Script:
    """``accounts`` query the ``model`` at ``path`` with the honest rows of ``dataset``.

    ``theft``: the attack, in words. ``own_inputs``: the same thief with a budget for their own natural inputs alone;
    None where the attack uses none. ``leaves``: the number of leaves of the model; None where it is no tree.
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
    dataset = breast_cancer()
    victim = TreeVictim(dataset)
    return Script(
        model=TUMOURS_MODEL,
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
    """Returns honest users of ``dataset``. All habits take turns, including those that ``prada`` mistakes for theft."""
    seen: Counter[str] = Counter()
    made = []
    for number, habit in enumerate(islice(cycle(habits_of(dataset).values()), accounts)):
        seen[habit.name] += 1
        made.append(HonestAccount(f"{habit.name.replace(' ', '-')}-{seen[habit.name]}", habit, number))
    return made
