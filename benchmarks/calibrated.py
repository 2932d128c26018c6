"""The lab's attacks on image models of 784 features, judged with a profile of fifty honest accounts.

Calibration and judged accounts have the same habits but other seeds, and draw from disjoint halves of the honest
images. Knockoff and similar attacks query with images of another kind (drawn textures). Missed attacks come first, with
how well a classifier tells such a thief's queries from honest ones (0.5 is chance). Run: python -m
benchmarks.calibrated [--accounts N] [DATASET:VICTIM ...]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks._detecting import Account, account, judge, told_apart
from detector.core.calibration.calibrate import FlaggedRate, calibrate
from detector.core.profile import Profile
from detector.lab.answers import Victim
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.data import Dataset, Examples
from detector.lab.experiment import thief_trace, victim_of
from detector.lab.fidelity import Yardstick
from detector.lab.honest import population
from detector.lab.session import AttackSession, InProcess, checkpoints
from detector.lab.wrappers import PLAIN, WRAPPERS
from tests.lab.textures import textures

VICTIMS = ("mnist:multilayer perceptron", "mnist:convolutional network")
BUDGETS = {
    **dict.fromkeys(("jbda", "n-fgsm", "n-i-fgsm", "t-rnd-fgsm", "t-rnd-i-fgsm", "color"), 500),
    **dict.fromkeys(("knockoff random", "knockoff adaptive", "copycat", "uncertainty"), 500),
    **dict.fromkeys((name for name in ATTACKS if name.startswith("cloudleak")), 1_000),
    **dict.fromkeys(("equation solving", "line-search retraining", "adaptive retraining", "data-free"), 500),
    **dict.fromkeys(("finite differences", "boundary walk", "model inversion"), 500),
}
CALIBRATION, JUDGED = 50, 200
LENGTHS = (300, 500, 120)
"""Queries of the honest accounts, in turn, at most."""
SEED = 21
POOL = 3_000


@dataclass(frozen=True, slots=True)
class Row:
    """One attack: the first verdicts of `prada` alone and calibrated, fidelity then and at the end; ``line`` as it is
    printed."""

    caught: bool
    line: str


def honest(dataset: Dataset, victim: Victim, half: int, count: int, seed: int) -> list[Account]:
    """``count`` accounts who ask with every second honest image, from ``half`` on."""
    images = dataset.honest
    own = replace(dataset, honest=Examples(images.features[half::2], images.labels[half::2]))
    accounts = []
    for number, user in enumerate(population(own, count, seed)):
        rows: list[np.ndarray] = []
        for ask in user.requests:
            rows.append(ask.rows)
            if sum(map(len, rows)) >= LENGTHS[number % len(LENGTHS)]:
                break
        features = np.concatenate(rows)[: LENGTHS[number % len(LENGTHS)]]
        accounts.append(account(user.account, user.habit, features, victim.answer(features).probabilities))
    return accounts


def carried_out(dataset: Dataset, victim: Victim, name: str, seed: int) -> AttackSession:
    """The attack ``name`` on ``victim``, to the end of its budget."""
    pool = None if dataset.side is None else textures(POOL, dataset.side, seed)
    thief = ATTACKS[name](Knowledge.of(dataset, pool), BUDGETS[name], seed)
    disguise = WRAPPERS[PLAIN](dataset, 0.1, seed)
    course = AttackSession(
        thief, InProcess(victim), disguise, Yardstick.of(victim, dataset, 0), checkpoints(BUDGETS[name])
    )
    course.run()
    return course


def stolen(name: str, course: AttackSession) -> Account:
    """What the thief of ``course`` asked and was told."""
    trace = thief_trace(name, course)
    return account("thief", name, trace.features, trace.outputs)


def attack(target: str, name: str, profile: Profile, others: Sequence[Account]) -> Row:
    """Carry out ``name`` on ``target`` and judge it."""
    course = carried_out(*victim_of(*target.split(":")), name, SEED)
    own = stolen(name, course)
    alone, told = judge(own, None), judge(own, profile)
    curve = [(point.queries, point.test) for point in course.curve]
    then = max((share for queries, share in curve if told.first and queries <= told.first), default=None)
    end = curve[-1][1] if curve else None
    apart = f"{told_apart(own, others, np.random.default_rng(0)):.2f}" if told.first is None else ""
    cells = [
        name,
        target.split(":")[1],
        f"{len(own.queries):,}",
        str(alone.first or "missed"),
        str(told.first or "**missed**"),
        "" if then is None else f"{then:.0%}",
        "" if end is None else f"{end:.0%}",
        ", ".join(told.evidence),
        apart,
    ]
    return Row(told.first is not None, f"| {' | '.join(cells)} |")


def rows(target: str, profile: Profile, others: Sequence[Account], progress: Progress) -> Iterator[Row]:
    """One for each attack; two at a time."""
    task = progress.add_task(f"attacks on {target}", total=len(BUDGETS))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        futures = [workers.submit(attack, target, name, profile, others) for name in BUDGETS]
        for future in futures:
            yield future.result()
            progress.advance(task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=VICTIMS)
    parser.add_argument("--accounts", type=int, default=CALIBRATION, help="honest accounts to calibrate on")
    options = parser.parse_args()
    started = time.monotonic()
    table: list[Row] = []
    judged: list[Account] = []
    flagged: list[Account] = []
    with Progress(console=Console(stderr=True)) as progress:
        for target in options.targets:
            dataset, victim = victim_of(*target.split(":"))
            task = progress.add_task(f"calibrating for {target}", total=options.accounts)
            accounts = honest(dataset, victim, 0, options.accounts, SEED)
            told = calibrate(
                [account.queries for account in accounts],
                0.01,
                progress=lambda done, task=task: progress.advance(task, done),  # type: ignore[misc]
            )
            others = honest(dataset, victim, 1, JUDGED, SEED + 1)
            task = progress.add_task(f"honest accounts of {target}", total=JUDGED)
            for own in others:
                if judge(own, told.profile).first:
                    flagged.append(own)
                progress.advance(task)
            judged += others
            table += rows(target, told.profile, others, progress)
    table.sort(key=lambda row: row.caught)
    print("| attack | victim | queries | `prada` alone | calibrated | clone then | at the end | evidence | separable |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(row.line for row in table))
    print(f"\nattacks found: {sum(row.caught for row in table)} of {len(table)}")
    low, high = FlaggedRate(len(flagged), len(judged)).interval
    kinds = ", ".join(f"{count} of {kind}" for kind, count in Counter(own.kind for own in flagged).items())
    print(f"honest accounts flagged: {len(flagged)} of {len(judged)} (95 percent interval {low:.1%} to {high:.1%})")
    print(kinds)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
