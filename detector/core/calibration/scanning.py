"""Finds the accounts that stand out in an unlabelled log, and makes a profile without them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import NOTHING, Calibration
from detector.core.calibration.jury import NOBODY, Farthest, Floats
from detector.core.calibration.owned import Owned
from detector.core.calibration.recording import record
from detector.core.calibration.screening import Screened, calibrate_screened
from detector.core.calibration.standing import Rank, Standings, line, standing_out

ENOUGH = 8
"""With fewer long accounts, no account stands out; they are only ranked."""
_ROUNDS = 4

Stage = Callable[[int], AbstractContextManager[Callable[[int], None]]]


def _silent(_: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None)


@dataclass(frozen=True, slots=True)
class Standing:
    """The result for the account ``name`` with ``queries``. ``score``: ``unexplained`` divided by ``line``, both in
    standard deviations of the other accounts. ``row``: the query, from 0, with the largest D. ``parts``: for each
    measure at that row the score, the value of the ``closest`` account (None: a simulated or the average one) and the
    contribution, largest first. ``crossed``: the row at which D crossed the line. ``like``: accounts that were not
    allowed to excuse it. ``left_out``: of the profile."""

    queries: int
    score: float
    unexplained: float
    line: float
    row: int
    crossed: int | None
    parts: tuple[tuple[str, float, float, float], ...]
    closest: str | None
    like: tuple[str, ...]
    name: str = ""
    left_out: bool = False
    stands_out: bool = False


@dataclass(frozen=True, slots=True)
class Scan:
    """``standings``: of all accounts, most suspicious first. ``screened``: the calibration on those that do not stand
    out. ``enough``: whether there are enough accounts to tell which stand out."""

    standings: list[Standing]
    screened: Screened
    enough: bool


def scan(
    accounts: Sequence[QueryBatch],
    budget: float,
    stage: Stage = _silent,
    owned: Owned = NOTHING,
) -> Scan:
    """Returns which of ``accounts`` stand out, each the queries of one principal to one model version. At most a share
    ``budget`` of honest accounts stands out. ``stage`` gets the number of accounts for each calibration; it yields a
    function that is called with the number replayed since.

    Leaves out the accounts that stand out and calibrates on the others again, until the same accounts stand out.
    Raises ConfigurationError for fewer than three accounts.
    """
    gone: frozenset[str] = frozenset()
    cleared: set[str] = set()
    for _ in range(_ROUNDS):
        with stage(len(accounts) - len(gone)) as progress:
            screened = calibrate_screened(accounts, budget, gone, progress, owned)
        calibration = screened.calibration
        enough = bool(calibration.long.sum() + len(gone) >= ENOUGH)
        left = [own for own in accounts if _name(own) in gone]
        outside = [_outside(own, calibration, enough) for own in left]
        found = standing_out(calibration, budget) if enough else set()
        cleared |= {own.name for own in outside if not own.stands_out}
        after = gone.union(calibration.accounts[at] for at in found) - cleared
        if after == gone:
            break
        gone = after
    inside = [_at_the_line(own) if own.name in cleared else own for own in _inside(calibration, budget, enough)]
    order = sorted([*outside, *inside], key=lambda own: -own.score)
    return Scan(order, screened, enough)


def _at_the_line(own: Standing) -> Standing:
    """Returns ``own``, with a score of at most 1, for an account that a profile without it does not flag."""
    if own.score <= 1:
        return own
    return replace(own, score=1.0, line=own.unexplained, crossed=None, stands_out=False)


def _name(account: QueryBatch) -> str:
    return str(account.principals[account.principal_index[0]])


def _outside(account: QueryBatch, calibration: Calibration, enough: bool) -> Standing:
    """Returns the standing of an account outside the calibration, judged by its profile as in ``replay``."""
    standards = calibration.profile.standards
    [recording] = record([account], calibration.profile)
    scores = recording.scores(standards.spread)
    found = calibration.jury.judged(scores)
    own = line(found, standards.threshold, standards.measures, int(calibration.long.sum()))
    standing = _standing(calibration, Rank(found.largest / own, own), found, scores, ())
    return replace(standing, name=_name(account), left_out=True, stands_out=enough and standing.score > 1)


def _inside(calibration: Calibration, budget: float, enough: bool) -> Iterator[Standing]:
    """Yields the standing of each account against all others."""
    for at, rank in enumerate(Standings(calibration, budget).every()):
        found = calibration.farthest[at]
        if rank.with_others:
            found = calibration.jury.farthest(at, rank.with_others)
        standing = _standing(calibration, rank, found, calibration.jury.scores[at], {at, *rank.with_others})
        yield replace(standing, name=calibration.accounts[at], stands_out=enough and rank.score > 1)


def _standing(
    calibration: Calibration, rank: Rank, found: Farthest, scores: Floats, without: Collection[int]
) -> Standing:
    """Returns the standing of an account with ``scores`` float64 (queries, j), which ``without`` do not excuse."""
    crossed = None
    if rank.score > 1:
        above = np.flatnonzero(calibration.jury.course(scores, without) > rank.line)
        crossed = int(above[0]) if len(above) else found.row
    columns = (column.tolist() for column in (scores[found.row], found.reached, found.added))
    parts = zip(calibration.profile.standards.measures, *columns, strict=True)
    names = calibration.accounts
    return Standing(
        queries=len(scores),
        score=rank.score,
        unexplained=found.largest,
        line=rank.line,
        row=found.row,
        crossed=crossed,
        parts=tuple(sorted((part for part in parts if part[3] > 0), key=lambda part: -part[3])),
        closest=None if found.excused_by == NOBODY else names[found.excused_by],
        like=tuple(sorted(names[other] for other in rank.with_others)),
    )
