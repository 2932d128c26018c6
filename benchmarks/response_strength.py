"""How good a clone is after that number of answers, under no defence and under each response from the first query on.

python -m benchmarks.response_strength [--seeds 2]

The thief is also the adaptive one (``benchmarks/_thieves.py``), and the best of them counts. Beside it what the
response costs honest clients who get it. In this process, without a detector; benchmarks.enforcement has one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks._thieves import THIEVES, Served, countered
from benchmarks.lab._markdown import percent, table
from benchmarks.lab._workers import workers
from detector.lab.answers import Classifier, Victim
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Attacker, Inputs, Knowledge
from detector.lab.data import Dataset
from detector.lab.datasets import DATASETS
from detector.lab.fidelity import Yardstick
from detector.lab.victims import VICTIMS
from detector.serving.responses import RESPONSES
from tests.lab.textures import textures

CHECKPOINTS = (500, 2_000)
NONE = "no defence"
DEFENCES = (NONE, *RESPONSES)
LABELS = THIEVES[1]
_POOL_ROWS = 3_000

Figures = Mapping[tuple[int, str, str], NDArray[np.float64]]
"""By case, defence and thief: natural and uniform fidelity at each of CHECKPOINTS."""


class Case(NamedTuple):
    """``attack`` on a ``victim`` of ``dataset``, whose thief has the pool that ``pool`` makes; None for none.
    ``by_labels``: the attack reads labels alone."""

    title: str
    attack: str
    victim: str
    dataset: str
    pool: Callable[[Dataset], Inputs] | None = None
    by_labels: bool = False


def foreign(dataset: Dataset) -> Inputs:
    return textures(_POOL_ROWS, dataset.side or 0, seed=0)


def natural(dataset: Dataset) -> Inputs:
    """Inputs of the victim's kind that neither the victim nor the yardstick has seen."""
    return np.concatenate([dataset.thief.features, dataset.honest.features])


CASES = (
    Case("JBDA, digits network", "jbda", "multilayer perceptron", "digits"),
    Case("Knockoff, foreign images, digits network", "knockoff random", "multilayer perceptron", "digits", foreign),
    Case("Knockoff, natural images, MNIST network", "knockoff random", "multilayer perceptron", "mnist", natural),
    Case("equation solving, softmax on digits", "equation solving", "logistic regression", "digits"),
    Case("line search, logistic regression", "line-search retraining", "logistic regression", "linear", by_labels=True),
)


@cache
def dataset_of(case: Case) -> Dataset:
    return DATASETS[case.dataset]()


@cache
def victim_of(case: Case) -> Victim:
    return VICTIMS[case.victim](dataset_of(case), 0)


@cache
def yardstick_of(case: Case) -> Yardstick:
    return Yardstick.of(victim_of(case), dataset_of(case), 0)


def stolen(number: int, defence: str, thief: str, seed: int) -> list[float]:
    """Natural and uniform fidelity of the clone of ``thief`` at each of CHECKPOINTS."""
    case = CASES[number]
    dataset = dataset_of(case)
    knowledge = Knowledge.of(dataset, case.pool and case.pool(dataset))
    asked = countered(thief, victim_of(case), RESPONSES.get(defence), knowledge, seed)
    budgets = [checkpoint // asked.repeats for checkpoint in CHECKPOINTS]
    attacker = ATTACKS[case.attack](knowledge, budgets[-1], seed)
    clones = clones_at(attacker, asked, budgets)
    fidelities = [yardstick_of(case).measure(clone, budget) for clone, budget in zip(clones, budgets, strict=True)]
    return [figure for one in fidelities for figure in (one.test, one.uniform)]


def clones_at(attacker: Attacker, victim: Victim, budgets: Sequence[int]) -> Iterator[Classifier]:
    """The clones after each of ``budgets`` answers, ascending."""
    done, pending = 0, attacker.next_batch()
    for budget in budgets:
        while done < budget:
            pending = pending if len(pending) else attacker.next_batch()
            if not len(pending):
                break
            part, pending = pending[: budget - done], pending[budget - done :]
            attacker.observe(part, victim.answer(part))
            done += len(part)
        yield attacker.clone()


class HonestEffect(NamedTuple):
    """Of a response on honest clients, on held-out inputs: the change of accuracy, the mean L1 distance from the
    model's answers, and the share of labels that changed."""

    accuracy: float
    distance: float
    labels: float


def honest_effect(number: int, defence: str) -> HonestEffect:
    case = CASES[number]
    test, victim = dataset_of(case).test, victim_of(case)
    own = victim.probabilities(test.features)
    served = own if defence == NONE else Served(victim, RESPONSES[defence]).probabilities(test.features)
    labels, changed = own.argmax(axis=1), served.argmax(axis=1)
    accuracy = (changed == test.labels).mean() - (labels == test.labels).mean()
    return HonestEffect(
        float(accuracy), float(np.abs(own - served).sum(axis=1).mean()), float((labels != changed).mean())
    )


def thieves_for(number: int, defence: str) -> Sequence[str]:
    """The thieves to run: what keeps labels gives a thief who takes these alone as much as no defence does."""
    if defence == NONE:
        return THIEVES[:1] if CASES[number].by_labels else THIEVES[:2]
    response = RESPONSES[defence]
    if response.keeps_argmax:
        alike = CASES[number].by_labels or response.action == "label_only"
        return () if alike else [thief for thief in THIEVES if thief != LABELS]
    return THIEVES[:3] if CASES[number].by_labels else THIEVES


def by_thief(number: int, defence: str, figures: Figures) -> dict[str, NDArray[np.float64]]:
    """The figures of each thief under ``defence``, the first of them the one who takes answers as served.

    A thief of two classes can also invert the clone: what is wrong about each input is as good as what is right.
    """
    found = {thief: figures[number, defence, thief] for thief in thieves_for(number, defence)}
    labels = figures[number, NONE, thieves_for(number, NONE)[-1]]
    if not found:
        return {THIEVES[0]: labels}
    if defence != NONE and RESPONSES[defence].keeps_argmax:
        found[LABELS] = labels
    if dataset_of(CASES[number]).classes == 2:
        found["inverting"] = 1 - found[THIEVES[0]]
    return found


def rows_of(number: int, figures: Figures) -> list[list[str]]:
    """One row a defence: fidelities of the thief who takes answers as served and of the best, who that is, and the
    honest clients."""
    rows = []
    for defence in DEFENCES:
        found, effect = by_thief(number, defence, figures), honest_effect(number, defence)
        served, best = found[THIEVES[0]], np.max(list(found.values()), axis=0)
        rows.append(
            [
                f"`{defence}`" if defence in RESPONSES else defence,
                *(f"{percent(one)} / {percent(other)}" for one, other in zip(served, best, strict=True)),
                max(found, key=lambda thief: found[thief][-2]),
                f"{100 * effect.accuracy:+.1f}",
                f"{effect.distance:.2f}",
                percent(effect.labels),
            ]
        )
    return rows


COLUMNS = (
    "response",
    *(f"{what} at {at:,}" for at in CHECKPOINTS for what in ("natural", "uniform")),
    "best thief",
    "honest accuracy",
    "L1",
    "labels changed",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    calls = [(n, d, t) for n in range(len(CASES)) for d in DEFENCES for t in thieves_for(n, d)]
    with workers("response strength") as pool:
        figures = dict(zip(calls, pool.means(stolen, calls, range(2, 2 + arguments.seeds)), strict=True))
    for number, case in enumerate(CASES):
        print(f"\n### {case.title}\n\n{table(COLUMNS, rows_of(number, figures))}")


if __name__ == "__main__":
    main()
