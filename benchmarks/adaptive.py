"""Thieves who have read the code and shape their queries by it, judged with a profile of fifty honest accounts.

Each thief asks natural rows of their own first. A cell has the queries from the end of these to the first verdict, by
seed of the thief; and where the last was missed, how well a classifier tells what they asked then from honest queries
(0.5 is chance). Calibration and judged accounts have the same habits but other seeds, and draw from disjoint halves
of the honest inputs. Run: python -m benchmarks.adaptive [--without MEASURE ...]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

from benchmarks._detecting import Account, account, judge, told_apart
from benchmarks.calibrated import CALIBRATION, SEED, honest
from benchmarks.lab._markdown import table
from detector.core.calibration.calibrate import FlaggedRate, calibrate
from detector.core.calibration.crossfit import COLUMNS
from detector.core.profile import Profile
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.experiment import PAUSE, Trace, count_leading, thief_trace, victim_of
from detector.lab.fidelity import Yardstick
from detector.lab.session import AttackSession, InProcess
from detector.lab.wrappers import WRAPPERS

TARGETS = (
    ("credit", "gradient boosting"),
    ("credit", "logistic regression"),
    ("digits", "multilayer perceptron"),
    ("digits", "convolutional network"),
    ("mnist", "convolutional network"),
)
JUDGED = 100
SEEDS = (1, 2)


class Thief(NamedTuple):
    """An attack in a disguise, by name, and its ``budget``."""

    name: str
    attack: str
    wrapper: str = "plain"
    budget: int = 500


THIEVES = (
    Thief("crossover", "crossover"),
    Thief("crossover of eight rows", "crossover of eight"),
    Thief("crossover of unsent rows", "crossover of unsent rows"),
    Thief("mixup", "mixup"),
    Thief("kernel density", "kernel density"),
    Thief("mixture of Gaussians", "mixture"),
    Thief("uniform", "uniform after rows"),
    Thief("uniform, diluted 1 in 8", "uniform after rows", "diluted", 1_200),
    Thief("uniform, washed after 4", "uniform after rows", "washed", 1_200),
    Thief("crossover, washed after 4", "crossover", "washed", 1_200),
    Thief("jbda", "jbda"),
    Thief("jbda, dummies 50 percent", "jbda", "dummies", 300),
    Thief("jbda, diluted 1 in 8", "jbda", "diluted", 1_200),
    Thief("jbda, slow drift", "jbda", "slow drift", 1_500),
)


class Case(NamedTuple):
    """One victim: the ``profile`` of its owner, the ``honest`` accounts that are judged, and those ``flagged``."""

    target: tuple[str, str]
    profile: Profile
    honest: list[Account]
    flagged: list[Account]


def case(target: tuple[str, str], measures: Sequence[str]) -> Case:
    data, victim = victim_of(*target)
    accounts = [own.queries for own in honest(data, victim, 0, CALIBRATION, SEED)]
    calibration = calibrate(accounts, 0.01, measures=measures)
    others = honest(data, victim, 1, JUDGED, SEED + 1)
    flagged = [own for own in others if judge(own, calibration.profile).first]
    return Case(target, calibration.profile, others, flagged)


def carried_out(own: Thief, target: tuple[str, str], seed: int) -> tuple[Trace, int]:
    """Returns what the thief asked and was told, and how many natural rows came first."""
    data, model = victim_of(*target)
    thief = ATTACKS[own.attack](Knowledge.of(data), own.budget, seed)
    disguise = WRAPPERS[own.wrapper](data, PAUSE, seed)
    course = AttackSession(thief, InProcess(model), disguise, Yardstick.of(model, data, 0, 10), [])
    course.run()
    trace = thief_trace(own.attack, course)
    return trace, count_leading(trace.features, data.thief.features)


def cells(own: Thief, cases: list[Case], progress: Progress, task: TaskID) -> Iterator[str]:
    yield own.name
    for at in cases:
        found = []
        for seed in SEEDS:
            trace, natural = carried_out(own, at.target, seed)
            first = judge(account("thief", own.name, trace.features, trace.outputs), at.profile).first
            found.append("missed" if first is None else str(first - natural))
            progress.advance(task)
        apart = f" ({told(own, at, trace, natural):.2f})" if first is None else ""
        yield ", ".join(found) + apart


def told(own: Thief, at: Case, trace: Trace, natural: int) -> float:
    """Returns how well a classifier tells what follows the natural rows from honest queries."""
    later = account("thief", own.name, trace.features[natural:], trace.outputs[natural:])
    return told_apart(later, at.honest, np.random.default_rng(0))


def flagged_cell(at: Case) -> str:
    """Returns how many honest accounts are flagged, the interval of that share, and their habits."""
    low, high = FlaggedRate(len(at.flagged), len(at.honest)).interval
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(own.kind for own in at.flagged).items())
    return f"{len(at.flagged)} of {len(at.honest)} ({low:.0%} to {high:.0%}){f': {kinds}' if kinds else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", nargs="*", default=[], choices=COLUMNS, help="measures that do not count")
    measures = [name for name in COLUMNS if name not in parser.parse_args().without]
    started = time.monotonic()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("calibrating", total=len(TARGETS))
        cases = []
        for target in TARGETS:
            cases.append(case(target, measures))
            progress.advance(task)
        task = progress.add_task("thieves", total=len(THIEVES) * len(TARGETS) * len(SEEDS))
        rows = [tuple(cells(thief, cases, progress, task)) for thief in THIEVES]
    rows.append(("honest accounts flagged", *map(flagged_cell, cases)))
    print(table(("thief", *(f"{victim}, {dataset}" for dataset, victim in TARGETS)), rows))
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
