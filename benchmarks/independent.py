"""The lab's attacks beside those of adversarial-robustness-toolbox, on the same victim; in a few minutes.

Needs the extra `independent`, and says so where it is missing. Run: python -m benchmarks.independent
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Victim
from detector.lab.attackers import EVERY_ATTACK
from detector.lab.attackers.attacker import Attacker, Knowledge, run_offline
from detector.lab.attackers.evasion import Evasion
from detector.lab.attackers.public_pool import PoolThief
from detector.lab.data import Dataset
from detector.lab.fidelity import agreement
from detector.lab.victims.digits import DigitsVictim, load_split
from tests.lab.textures import textures

SEEDS = (0, 1, 2)
BUDGET = 1_000
POOL_ROWS = 3_000
EXTRACTIONS = (
    ("knockoff random", "art-knockoff-random"),
    ("copycat", "art-copycat"),
    ("knockoff adaptive", "art-knockoff-adaptive"),
)
EVASIONS = ("finite differences", "art-zoo", "boundary walk", "art-boundary", "art-hop-skip-jump")
INPUTS = 10
BUDGETS_OF_AN_INPUT = (1_000, 4_000)

Row = tuple[object, ...]


def main() -> None:
    split = load_split()
    victim = DigitsVictim(split.training)
    knowledge = Knowledge.of(split, textures(POOL_ROWS, 8, seed=0))
    try:
        EVERY_ATTACK["art-copycat"](knowledge, BUDGET, 0)
    except LabError as error:
        print(f"NOT RUN: {error}")
        return
    _print(("attack", "ours", "queries", "toolbox", "queries"), _extractions(knowledge, victim, split))
    _print(("rows chosen by", "queries", "agreement"), _bandits(knowledge, victim, split))
    _print(("evasion", "budget of an input", "turned", "queries", "distance"), _evasions(knowledge, victim))


def _extractions(knowledge: Knowledge, victim: Victim, split: Dataset) -> Iterator[Row]:
    """Agreement on unseen digits in percent, and queries, each the mean over the seeds."""
    for names in EXTRACTIONS:
        cells: list[object] = [names[0]]
        for name in names:
            thieves = [EVERY_ATTACK[name](knowledge, BUDGET, seed) for seed in SEEDS]
            queries = [run_offline(thief, victim) for thief in thieves]
            clones = [agreement(victim, thief.clone(), split.test.features) for thief in thieves]
            cells += [_percent(clones), f"{np.mean(queries):,.0f}"]
        yield tuple(cells)


def _bandits(knowledge: Knowledge, victim: Victim, split: Dataset) -> Iterator[Row]:
    """As many rows by each, and one kind of clone, which learns probabilities: only the choice differs."""
    chosen = [_asked(EVERY_ATTACK["art-knockoff-adaptive"](knowledge, BUDGET, seed), victim) for seed in SEEDS]
    counts = [len(rows) for rows in chosen]
    for name in ("knockoff random", "knockoff adaptive", "art-knockoff-adaptive"):
        clones = []
        for seed, rows in zip(SEEDS, chosen, strict=True):
            asked = rows if name.startswith("art-") else _asked(EVERY_ATTACK[name](knowledge, len(rows), seed), victim)
            learner = PoolThief(knowledge, budget=len(asked), seed=seed)
            learner.observe(asked, victim.answer(asked))
            clones.append(agreement(victim, learner.clone(), split.test.features))
        yield name, f"{np.mean(counts):,.0f}", _percent(clones)


def _asked(thief: Attacker, victim: Victim) -> NDArray[np.float32]:
    """Returns all queries of the thief (n, d)."""
    batches = []
    while len(batch := thief.next_batch()):
        batches.append(batch)
        thief.observe(batch, victim.answer(batch))
    return np.concatenate(batches)


def _evasions(knowledge: Knowledge, victim: Victim) -> Iterator[Row]:
    """Medians over the inputs and seeds: queries, and Euclidean distance in shares of the features' ranges."""
    for name in EVASIONS:
        for budget in BUDGETS_OF_AN_INPUT:
            runs = [_evasion(name, knowledge, victim, budget, row, seed) for row in range(INPUTS) for seed in SEEDS]
            queries = np.median([queries for queries, _ in runs])
            found = np.concatenate([distances for _, distances in runs])
            distance = f"{np.median(found):.2f}" if len(found) else "-"
            yield name, f"{budget:,}", f"{len(found)} of {len(runs)}", f"{queries:,.0f}", distance


def _evasion(
    name: str, knowledge: Knowledge, victim: Victim, budget: int, row: int, seed: int
) -> tuple[int, NDArray[np.float64]]:
    """Queries made for the thief's input ``row``, and the distance found: (1,), or (0,) for none."""
    attacker = EVERY_ATTACK[name](replace(knowledge, natural=knowledge.natural[row : row + 1]), budget, seed)
    assert isinstance(attacker, Evasion)
    return run_offline(attacker, victim), attacker.distances()


def _percent(shares: list[float]) -> str:
    """Mean, and the lowest and highest."""
    return f"{100 * np.mean(shares):.1f} ({100 * min(shares):.1f} to {100 * max(shares):.1f})"


def _print(head: tuple[str, ...], rows: Iterator[Row]) -> None:
    print("|", " | ".join(head), "|")
    print("|" + "---|" * len(head))
    for row in rows:
        print("|", " | ".join(map(str, row)), "|", flush=True)
    print()


if __name__ == "__main__":
    main()
