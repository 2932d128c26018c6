"""Attacks that train a network on the digits network's answers."""

from __future__ import annotations

from benchmarks.lab._markdown import percent, table
from benchmarks.lab._networks import SEEDS, UNIFORM, clone_of
from benchmarks.lab._workers import Workers
from detector.lab.fidelity import Yardstick
from detector.lab.victims.digits import DigitsVictim, load_split

BUDGETS = {
    "jbda": 1_600,
    "n-fgsm": 1_600,
    "n-i-fgsm": 1_600,
    "t-rnd-fgsm": 1_600,
    "t-rnd-i-fgsm": 1_600,
    "color": 1_600,
    "knockoff random": 1_000,
    "knockoff adaptive": 1_000,
    "copycat": 1_000,
    "uncertainty": 1_000,
    "k-center": 1_000,
    "data-free": 8_000,
    UNIFORM: 8_000,
    "cloudleak pgd": 600,
    "cloudleak cw": 600,
    "cloudleak feature adversary": 600,
    "cloudleak featurefool 0.1": 600,
    "cloudleak featurefool": 600,
    "cloudleak featurefool 0.8": 600,
}


def stolen(attack: str, budget: int, seed: int) -> tuple[float, float]:
    """Agreement of the clone on unseen digits, and on uniform inputs."""
    split = load_split()
    victim = DigitsVictim(split.training)
    clone = clone_of(victim, split, attack, budget, seed)
    fidelity = Yardstick.of(victim, split, seed).measure(clone, budget)
    return fidelity.test, fidelity.uniform


def tables(workers: Workers) -> str:
    calls = [(attack, queries) for attack, budget in BUDGETS.items() for queries in (budget // 4, budget)]
    means = workers.means(stolen, calls, SEEDS)
    columns = ("attack", "queries", "at a quarter", "at the end", "uniform")
    rows = [
        (attack, f"{budget:,}", percent(early[0]), percent(late[0]), percent(late[1]))
        for (attack, budget), early, late in zip(BUDGETS.items(), means[::2], means[1::2], strict=True)
    ]
    return table(columns, rows)
