"""What ``scan`` makes of unlabelled logs: honest accounts of all habits, and thieves under names that tell nothing.

Of each log: the places of the thieves, how many of them and of the honest accounts stand out. The seeds are others than
those that the lines were chosen on (101 and 102). Run: python -m benchmarks.scan [--seeds 4 5], or
python -m benchmarks.scan --recorded FOLDER, a folder as ``benchmarks.recorded`` reads it.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._detecting import Account
from benchmarks._mixed_logs import Target, honest, thief, unnamed
from benchmarks.recorded import read
from detector.core.calibration.calibrate import FlaggedRate
from detector.core.calibration.scan import ScannedAccount, scan

BUDGET = 0.01
SEEDS = (4, 5)
MANY, FEW = 60, 12
KINDS: dict[Target, tuple[str, str, str]] = {
    ("categorical", "decision tree"): ("path finding top-down", "jbda", "k-center"),
    ("breast cancer", "decision tree"): ("path finding top-down", "uniform retraining", "jbda"),
    ("breast cancer", "logistic regression"): ("equation solving", "lowd-meek", "jbda"),
    ("digits", "multilayer perceptron"): ("jbda", "knockoff random", "line-search retraining"),
}
"""Thieves of three kinds for each model."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one log: the ``places`` of the thieves from 1, how many of them stand out, and the kinds of honest accounts
    that do."""

    places: tuple[int, ...]
    found: int
    flagged: tuple[str, ...]
    accounts: int

    @property
    def as_wanted(self) -> bool:
        """Whether the thieves are first and at most one honest account stands out."""
        return self.places == tuple(range(1, len(self.places) + 1)) and len(self.flagged) <= 1


def outcome(crowd: Sequence[Account], thieves: Sequence[Account], seed: int) -> Outcome:
    """What a scan makes of the two in one log."""
    stolen = {id(thief.queries.features) for thief in thieves}
    log = unnamed([*crowd, *thieves], np.random.default_rng(seed))
    kinds = {own.name: own.kind for own in log}
    bad = {own.name for own in log if id(own.queries.features) in stolen}
    order: list[ScannedAccount] = scan([own.queries for own in log], BUDGET).accounts
    places = tuple(place for place, own in enumerate(order, 1) if own.name in bad)
    out = [own.name for own in order if own.stands_out]
    flagged = tuple(kinds[name] for name in out if name not in bad)
    return Outcome(places, len(out) - len(flagged), flagged, len(crowd))


def outcomes(target: Target, seed: int) -> Iterator[tuple[str, Outcome]]:
    """Of the logs of one model: three thieves of different kinds, two of one kind, one among twelve, nobody."""
    crowd = honest(target, MANY, seed)
    stolen = [thief(target, attack, seed) for attack in KINDS[target]]
    yield "three kinds among 60", outcome(crowd, [thief for thieves in stolen for thief in thieves], seed)
    for attack, own in zip(KINDS[target], stolen, strict=True):
        yield "two of one kind among 60", outcome(crowd, [*own, *thief(target, attack, seed + 50)], seed)
    few = honest(target, FEW, seed + 20)
    for own in stolen:
        yield "one among 12", outcome(few, own, seed)
    yield "no thief among 60", outcome(crowd, [], seed)
    yield "no thief among 12", outcome(few, [], seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--recorded", type=Path)
    options = parser.parse_args()
    if options.recorded is not None:
        _recorded(options.recorded)
        return
    print("| model | log | places of thieves | thieves found | honest that stand out |")
    print("|---|---|---|--:|---|")
    every: dict[str, list[Outcome]] = {}
    for seed in options.seeds:
        for target in KINDS:
            for kind, own in outcomes(target, seed):
                every.setdefault(kind, []).append(own)
                print(f"| {', '.join(target)} | {kind}, seed {seed} | {_told(own)} |", flush=True)
    print()
    for kind, found in every.items():
        print(_summary(kind, found))


def _told(own: Outcome) -> str:
    places = ", ".join(map(str, own.places)) or "-"
    return f"{places} | {own.found} of {len(own.places)} | {', '.join(own.flagged) or '-'}"


def _summary(kind: str, found: Sequence[Outcome]) -> str:
    flagged = sum(len(own.flagged) for own in found)
    accounts = sum(own.accounts for own in found)
    low, high = FlaggedRate(flagged, accounts).interval
    first = sum(own.as_wanted for own in found)
    return (
        f"{kind}: thieves first and at most one honest account out in {first} of {len(found)} logs; thieves out "
        f"{sum(own.found for own in found)} of {sum(len(own.places) for own in found)}; honest out {flagged} of "
        f"{accounts} "
        f"(95 percent interval {low:.1%} to {high:.1%})"
    )


def _recorded(folder: Path) -> None:
    """Of recordings: each victim's honest accounts with each attack by itself, and with all."""
    print("| victim | recording | accounts | places | thieves found | honest that stand out |")
    print("|---|---|--:|---|--:|---|")
    for name, victim in read(folder).items():
        alone = {attack: accounts for attack, accounts in victim.attacks.items() if len(accounts) == 1}
        logs = {
            **victim.attacks,
            "all of one account": [account for accounts in alone.values() for account in accounts],
        }
        for attack, thieves in {"none": [], **logs}.items():
            own = outcome(victim.honest, thieves, 0)
            kinds = Counter(own.flagged)
            told = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "-"
            places = ", ".join(map(str, own.places[:6])) + ("…" if len(own.places) > 6 else "")
            cells = (name, attack, str(len(victim.honest)), places or "-", f"{own.found} of {len(own.places)}", told)
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
