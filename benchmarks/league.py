"""Weirguard beside other published detectors: thieves found, and honest accounts flagged, on the same traffic.

Each calibrates on the same fifty honest accounts at a budget of 1 percent of accounts: a rival by the largest value
that its statistic reaches in each account, with the other four fifths of the accounts as its honest rows, and an
exponential tail, as Weirguard's own threshold. Judged are 100 other accounts of the same habits, the lab's attacks, the
thieves of ``benchmarks.adaptive``, and with ``--recorded FOLDER`` the recordings that ``benchmarks.recorded`` reads.
Run: python -m benchmarks.league [--recorded FOLDER] [DATASET:VICTIM ...]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks._detecting import Account, account, judge
from benchmarks._rivals import RIVALS, Course, Ground
from benchmarks.adaptive import JUDGED, SEEDS, THIEVES, Thief, carried_out
from benchmarks.calibrated import CALIBRATION, SEED, honest
from benchmarks.lab._markdown import table
from benchmarks.recorded import read
from detector.core.calibration.calibrate import FlaggedRate, Tail, calibrate
from detector.lab.experiment import victim_of

_IMAGES = (
    *("jbda", "t-rnd-fgsm", "color", "uncertainty", "knockoff random", "cloudleak pgd"),
    *("equation solving", "line-search retraining", "adaptive retraining", "finite differences"),
)
TARGETS = {
    "credit:gradient boosting": ("jbda", "uniform retraining", "uncertainty", "k-center", "knockoff random"),
    "digits:multilayer perceptron": _IMAGES,
    "mnist:convolutional network": _IMAGES,
}
"""Standard attacks on each victim."""
BUDGET, FOLDS, LONGEST = 0.01, 5, 500
OURS = "Weirguard"


@dataclass
class Standing:
    """Of one detector: the first verdicts by family of thieves, None where there was none; honest accounts flagged."""

    found: dict[str, list[int | None]] = field(default_factory=lambda: defaultdict(list))
    flagged: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """One victim's accounts: to calibrate on, to judge, and thieves, with their family and where their theft begins."""

    calibration: Sequence[Account]
    honest: Sequence[Account]
    thieves: Sequence[tuple[str, Account, int]]


def threshold(rival: Course, accounts: Sequence[Account]) -> float:
    """What one in a hundred accounts exceeds."""
    largest = []
    for fold in range(FOLDS):
        ground = Ground([own for at, own in enumerate(accounts) if at % FOLDS != fold])
        largest += [float(rival(ground, own).max()) for own in accounts[fold::FOLDS]]
    tail = Tail.of(np.array(largest))
    return tail.start + tail.excess * max(log(tail.share / BUDGET), 0.0)


def first(course: np.ndarray, limit: float) -> int | None:
    above = np.flatnonzero(course > limit)
    return int(above[0]) + 1 if len(above) else None


def simulated(target: str) -> Field:
    data, _, model = target.partition(":")
    dataset, victim = victim_of(data, model)
    thieves = []
    attacks = [Thief(name, name, budget=LONGEST) for name in TARGETS[target]]
    for family, attackers in (("lab", attacks), ("adaptive", THIEVES)):
        for thief in attackers:
            for seed in SEEDS:
                trace, natural = carried_out(thief, (data, model), seed)
                own = account("thief", thief.name, trace.features, trace.outputs)
                thieves.append((family, own, natural if family == "adaptive" else 0))
    known = honest(dataset, victim, 0, CALIBRATION, SEED), honest(dataset, victim, 1, JUDGED, SEED + 1)
    return Field(*known, thieves)


def recorded(folder: Path) -> Iterator[tuple[str, Field]]:
    for name, victim in read(folder).items():
        thieves = [("recorded", own, 0) for accounts in victim.attacks.values() for own in accounts]
        yield name, Field(victim.honest[::2], victim.honest[1::2], thieves)


def judged(own: Field, standings: dict[str, Standing], progress: Progress, name: str) -> None:
    """Adds what each detector makes of one victim's accounts."""
    task = progress.add_task(name, total=len(RIVALS) + 1)
    profile = calibrate([account.queries for account in own.calibration], BUDGET).profile
    standings[OURS].flagged += sum(judge(account, profile).first is not None for account in own.honest)
    for family, thief, begins in own.thieves:
        _enter(standings[OURS], family, judge(thief, profile).first, begins)
    progress.advance(task)
    ground = Ground(own.calibration)
    for rival, course in RIVALS.items():
        limit = threshold(course, own.calibration)
        standings[rival].flagged += sum(first(course(ground, account), limit) is not None for account in own.honest)
        for family, thief, begins in own.thieves:
            _enter(standings[rival], family, first(course(ground, thief), limit), begins)
        progress.advance(task)


def _enter(standing: Standing, family: str, query: int | None, begins: int) -> None:
    standing.found[family].append(None if query is None else max(query - begins, 0))


def cell(verdicts: Sequence[int | None]) -> str:
    found = [query for query in verdicts if query is not None]
    return f"{len(found)} of {len(verdicts)}" + (f", at {median(found):.0f}" if found else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--recorded", type=Path)
    options = parser.parse_args()
    started, count = time.monotonic(), 0
    standings = {name: Standing() for name in (OURS, *RIVALS)}
    with Progress(console=Console(stderr=True)) as progress:
        for target in options.targets:
            own = simulated(target)
            judged(own, standings, progress, target)
            count += len(own.honest)
        for name, own in recorded(options.recorded) if options.recorded else ():
            judged(own, standings, progress, name)
            count += len(own.honest)
    families = list(standings[OURS].found)
    rows = []
    for name, standing in standings.items():
        low, high = FlaggedRate(standing.flagged, count).interval
        flagged = f"{standing.flagged} of {count} ({low:.1%} to {high:.1%})"
        rows.append((name, *(cell(standing.found[family]) for family in families), flagged))
    print(table(("detector", *families, "honest accounts flagged"), rows))
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
