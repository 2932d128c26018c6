"""How many honest accounts are ever flagged in a long life: by the number of calibration accounts, by habit, with a
drift of all accounts, and after calibrating anew.

Calibration and judged accounts have the habits of the lab in turn but other seeds, and draw from disjoint halves of the
honest inputs. An account of the calibration asks 300 queries. Where all accounts drift, the inputs that they draw from
move four times in a life, each continuous feature by an eighth of its standard deviation. The profile made anew rests
on the second half of the lives of other such accounts, and judges the second half of each. The budget is 1 percent.
Run: python -m benchmarks.lifetime [--full] [--only DATASET]
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
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks._detecting import Account, Rows, account
from benchmarks.lab._markdown import table
from detector.contracts.batches import cut
from detector.core.calibration.calibrate import FlaggedRate, calibrate
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.lab.data import Dataset, Examples
from detector.lab.experiment import victim_of
from detector.lab.honest import HonestUser, population

TARGETS = (("credit", "gradient boosting"), ("digits", "multilayer perceptron"))
BUDGET = 0.01
CALIBRATION = 300
"""Queries of an account of the calibration."""
AGES = (100, 300, 1_000, 3_000, 10_000)
DRIFT, STAGES = 0.5, 5
"""Standard deviations in all, and in how many parts of a life."""
SEED = 90
_BATCH, _TOGETHER = 256, 8
_STAGE_SEEDS = 1_000

Target = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run: ``calibrations``: their numbers of accounts, ``draws`` of each; ``accounts`` judged in each, of
    ``queries`` each."""

    calibrations: tuple[int, ...]
    draws: int
    accounts: int
    queries: int


SHORT = Size((20, 50), 1, 48, 3_000)
FULL = Size((20, 50, 200), 4, 504, 10_000)


@dataclass(frozen=True, slots=True)
class Case:
    """One table row of a ``draw``: a profile of ``calibration`` accounts; ``drifting`` accounts; ``anew``: the
    profile is of drifted accounts."""

    target: Target
    calibration: int
    draw: int
    drifting: bool = False
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Life:
    """When an account of ``habit`` was ``first`` flagged, from query 1, or None, and what ``told``."""

    habit: str
    first: int | None
    told: tuple[str, ...] = ()


def lived(target: Target, half: int, count: int, queries: int, seed: int, drifting: bool) -> Iterator[Account]:
    """Yields ``count`` accounts of at most ``queries`` who ask with every second honest row, from ``half`` on."""
    data, victim = victim_of(*target)
    stages = STAGES if drifting else 1
    parts = []
    for stage in range(stages):
        moved = _moved(data, data.honest.features[half::2], stage / max(stages - 1, 1))
        own = replace(data, honest=Examples(moved, data.honest.labels[half::2]))
        parts.append(population(own, count, seed + stage * _STAGE_SEEDS))
    for users in zip(*parts, strict=True):
        rows = np.concatenate([_asked(user, queries // stages) for user in users])
        yield account(users[0].account, users[0].habit, rows, victim.answer(rows).probabilities)


def _asked(user: HonestUser, queries: int) -> Rows:
    return np.array(list(islice((row for ask in user.requests for row in ask.rows), queries)), np.float32)


def _moved(data: Dataset, rows: Rows, share: float) -> Rows:
    """Returns ``rows`` (n, d) after a ``share`` of the drift; categories stay."""
    signs = np.random.default_rng(SEED).choice((-1, 1), data.dimension)
    step = np.where(data.categories > 0, 0, DRIFT * share * signs * rows.std(axis=0))
    return np.clip(rows + step, data.low, data.high).astype(np.float32)


@lru_cache(maxsize=2)
def profile(own: Case, queries: int) -> Profile:
    """Made from the first queries of accounts; ``anew``, from those in the second half of a drifting life."""
    seed, start = SEED + 2 * own.draw, queries // 2 if own.anew else 0
    length = start + CALIBRATION
    accounts = lived(own.target, 0, own.calibration, queries if own.anew else CALIBRATION, seed, own.anew)
    parts = [cut(each.queries, min(start, len(each.queries) // 2), min(length, len(each.queries))) for each in accounts]
    return calibrate(parts, BUDGET).profile


def judged(own: Case, size: Size) -> list[Life]:
    """Returns the lives of the accounts of ``own``; with a profile made ``anew`` their second halves alone."""
    by = profile(own, size.queries)
    accounts = lived(own.target, 1, size.accounts, size.queries, SEED + 2 * own.draw + 1, own.drifting)
    start, lives = size.queries // 2 if own.anew else 0, list[Life]()
    while some := list(islice(accounts, _TOGETHER)):
        lives += _together([later(each, start) for each in some], by)
    return lives


def later(own: Account, start: int) -> Account:
    """Returns ``own`` from the query ``start`` on, or from the middle of a shorter life."""
    start = min(start, len(own.queries) // 2)
    return replace(own, queries=cut(own.queries, start, len(own.queries)))


def _together(accounts: Sequence[Account], by: Profile) -> list[Life]:
    engine = Engine(EngineConfig(profiles=(by,)))
    flagged: dict[str, tuple[int, tuple[str, ...]]] = {}
    for start in range(0, max(len(user.queries) for user in accounts), _BATCH):
        pieces = [user.queries for user in accounts if len(user.queries) > start]
        seen = engine.observe([cut(piece, start, min(start + _BATCH, len(piece))) for piece in pieces])
        for found in seen.findings:
            told = tuple(item.name for item in found.evidence[1:3])
            flagged.setdefault(found.principal, (found.query_index, told))
    none: tuple[None, tuple[str, ...]] = (None, ())
    return [Life(account.kind, *flagged.get(account.name, none)) for account in accounts]


def line(own: Case, draws: Sequence[Sequence[Life]], ages: Sequence[int]) -> list[str]:
    """Returns the cells of a row, of all draws together."""
    lives = [life for draw in draws for life in draw]
    firsts = [life.first for life in lives if life.first is not None]
    low, high = FlaggedRate(len(firsts), len(lives)).interval
    worst = max(sum(life.first is not None for life in draw) / len(draw) for draw in draws)
    habits = Counter(life.habit for life in lives)
    kinds = Counter(life.habit for life in lives if life.first is not None)
    said = "they drift; calibrated anew" if own.anew else "they drift" if own.drifting else "as calibrated"
    return [
        ", ".join(own.target),
        str(own.calibration),
        said,
        " / ".join(f"{sum(first <= age for first in firsts) / len(lives):.1%}" for age in ages),
        f"{len(firsts)} of {len(lives)} ({low:.1%} to {high:.1%})",
        f"{worst:.1%}",
        ", ".join(f"{name} {count} of {habits[name]} ({_told(lives, name)})" for name, count in kinds.most_common()),
    ]


def _told(lives: Sequence[Life], habit: str) -> str:
    """Returns what told of most flagged accounts of ``habit``."""
    return Counter(name for life in lives if life.habit == habit for name in life.told).most_common(1)[0][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="2,016 accounts of 10,000 queries a row; hours")
    parser.add_argument("--only", help="the data set of one victim")
    options = parser.parse_args()
    size, started = FULL if options.full else SHORT, time.monotonic()
    targets = [target for target in TARGETS if options.only in (None, target[0])]
    kinds = [(False, False), (True, False), (True, True)]
    rows = [
        [Case(target, count, draw, *kind) for draw in range(size.draws)]
        for target in targets
        for count in size.calibrations
        for kind in kinds
    ]
    cases = [own for row in rows for own in row]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        lives = dict(
            track(
                zip(cases, pool.map(judged, cases, [size] * len(cases)), strict=True),
                "lives",
                len(cases),
                console=Console(stderr=True),
            )
        )
    ages = [age for age in AGES if age <= size.queries]
    head = ("victim", "calibration", "accounts", f"flagged by query {' / '.join(f'{age:,}' for age in ages)}")
    columns = (*head, "ever (95 percent interval)", "worst draw", "habits")
    print(table(columns, [line(row[0], [lives[own] for own in row], ages) for row in rows]))
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
