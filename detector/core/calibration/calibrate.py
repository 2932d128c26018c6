"""From honest accounts to a profile: references they are compared with, how they vary, exemplars and the threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.calibration.habits import WHAT_IFS, what_if
from detector.core.calibration.owned import Owned
from detector.core.calibration.recording import CLOCK, COLUMNS, Recording, blank, record
from detector.core.calibration.threshold import Tail, odd_ones
from detector.core.profile import Profile
from detector.core.reference import Honest, Reference
from detector.core.signals import MEASURES, WEIGHED
from detector.core.standards import MOST, Spread, Standards, outermost, unexplained

FEWEST_ACCOUNTS = 3
"""Fewer say nothing about how accounts differ."""

NOTHING = Owned()

_FOLDS = 24
_FEWEST_QUERIES = 10

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A ``profile``, and the accounts it rests on: their names, ``largest`` float64 (n,), the D that each reached
    against all others, ``added`` float64 (n, j), what each of its measures adds to that, ``reached`` float64 (n, j),
    its largest scores, and ``odd`` bool (n,), those unlike all others; and the ``tail`` of D."""

    profile: Profile
    accounts: list[str]
    largest: Floats
    added: Floats
    reached: Floats
    odd: NDArray[np.bool_]
    tail: Tail


def calibrate(
    accounts: Sequence[QueryBatch],
    budget: float,
    rng: np.random.Generator,
    progress: Callable[[int], None] | None = None,
    owned: Owned = NOTHING,
    measures: Sequence[str] = COLUMNS,
) -> Calibration:
    """A profile from honest ``accounts``, the queries of one principal to one model version each, such that a share
    ``budget`` of accounts like them is flagged. ``progress`` is told how many accounts were replayed since. What the
    owner gives besides, if anything, is ``owned``. ``measures``: those that count.

    Every account is compared with the others alone: with their queries as reference and with their scores as exemplars.
    Raises ConfigurationError for fewer than three accounts.
    """
    if len(accounts) < FEWEST_ACCOUNTS:
        raise ConfigurationError(
            f"{len(accounts)} honest accounts are too few to calibrate on; give the logs of {FEWEST_ACCOUNTS} or more, "
            "better of twenty with habits that differ"
        )
    recordings, invented = _recordings(accounts, rng, progress or (lambda _: None), owned)
    spread = _spread(recordings)
    counting = [COLUMNS.index(name) for name in measures]
    scores = [recording.scores(spread)[:, counting] for recording in recordings]
    reached = np.array([own.max(axis=0) for own in scores])
    excuses = _excuses([own.scores(spread)[:, counting].max(axis=0) for own in invented], reached, measures)
    farthest = [_farthest(own, *_of_others(at, reached, excuses)) for at, own in enumerate(scores)]
    largest, added = (np.array(column) for column in zip(*farthest, strict=True))
    odd = odd_ones(largest, budget)
    tail = Tail.of(largest[~odd])
    exemplars = outermost(np.concatenate((reached, excuses)))
    standards = Standards(tuple(measures), spread.at(counting), exemplars, tail.threshold(budget))
    profile = owned.profile(accounts, _reference(accounts, rng), standards)
    names = [own.principals[own.principal_index[0]] for own in accounts]
    return Calibration(profile, names, largest, added, reached, odd, tail)


def _recordings(
    accounts: Sequence[QueryBatch], rng: np.random.Generator, progress: Callable[[int], None], owned: Owned
) -> tuple[list[Recording], list[Recording]]:
    """Of each account, and of invented ones with habits that may be missing, beside the queries of other accounts. The
    first of these has the queries of the first account, and so on."""
    folds = np.arange(len(accounts)) % min(len(accounts), _FOLDS)
    recordings: dict[int, Recording] = {}
    invented: list[Recording] = []
    for fold in range(int(folds.max()) + 1):
        inside, outside = np.flatnonzero(folds == fold).tolist(), np.flatnonzero(folds != fold).tolist()
        others = [accounts[at] for at in outside]
        profile = owned.profile(others, _reference(others, rng), blank())
        recordings |= zip(inside, record([accounts[at] for at in inside], profile), strict=True)
        if fold < len(WHAT_IFS):
            invented += record(
                [what_if(accounts[inside[0]], others[-1 - fold % len(others)], *WHAT_IFS[fold], rng)], profile
            )
        progress(len(inside))
    return [recordings[at] for at in range(len(accounts))], invented


def _reference(accounts: Sequence[QueryBatch], rng: np.random.Generator) -> Reference:
    honest = [Honest(account.features, account.outputs, account.hardness) for account in accounts]
    return Reference.of(honest, accounts[0].output_kind, rng)


def _spread(recordings: Sequence[Recording]) -> Spread:
    """How honest accounts vary, robustly: medians and median deviations, never less than each measure's floor."""
    long = [own for own in recordings if len(own.values) >= _FEWEST_QUERIES] or list(recordings)
    means, deviations = (np.array(column) for column in zip(*(_moments(own) for own in long), strict=True))
    known = ~np.isnan(means).all(axis=0)
    means, deviations = np.where(known, means, 0.0), np.where(known, deviations, 0.0)
    mean = np.nanmedian(means, axis=0)
    between = 1.4826 * np.nanmedian(np.abs(means - mean), axis=0)
    within = np.nanmedian(deviations, axis=0)
    floors = [(own.between, own.within) for own in MEASURES.values()] + [_LEAST_STATE] * len(WEIGHED)
    least_between, least_within = np.array(floors).T
    own = np.fmax(between, least_between), np.fmax(within, least_within)
    # Change is in deviations of its own, about 0.
    return Spread(*(np.append(column, last) for column, last in zip((mean, *own), (0.0, 1.0, 0.0), strict=True)))


_LEAST_STATE = (0.5, 0.0)
"""The floors for signals whose score is 1 at their own threshold."""


def _moments(own: Recording) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each column over the account's queries, by their weights; NaN where it never
    said."""
    weights = np.concatenate((own.weights[:, CLOCK], np.ones_like(own.others)), axis=1)
    values = np.concatenate((own.values, own.others), axis=1)
    weights = np.where(np.isnan(values), 0.0, weights)
    total = weights.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weights * np.nan_to_num(values)).sum(axis=0) / total
        variance = (weights * (np.nan_to_num(values) - mean) ** 2).sum(axis=0) / total
    return mean, np.sqrt(variance)


def _excuses(invented: list[Floats], reached: Floats, measures: Sequence[str]) -> Floats:
    """Exemplars that nobody is: the ordinary account, and those of invented users, in order. What the model would have
    told these is not known, so they may be told whatever any honest account was."""
    said = np.array([name in MEASURES and MEASURES[name].family == "outputs" for name in measures])
    likely = [np.where(said, np.maximum(own, reached.max(axis=0)), own) for own in invented]
    return np.array([np.zeros(len(measures)), *likely])


def _of_others(at: int, reached: Floats, excuses: Floats) -> tuple[Floats, Floats]:
    """What may explain account ``at``: all but itself, and but the invented user who has its queries."""
    own = [at + 1] if at + 1 < len(excuses) else []
    return np.delete(reached, at, 0), np.delete(excuses, own, 0)


def _farthest(scores: Floats, others: Floats, excuses: Floats) -> tuple[float, Floats]:
    """The largest D of an account whose ``scores`` (n, j) ``others`` and ``excuses`` explain, and what each measure
    adds to it."""
    exemplars = outermost(np.concatenate((others, excuses)))
    left, best = unexplained(scores, exemplars)
    at = int(left.argmax())
    return float(left[at]), np.clip(scores[at] - exemplars[best[at]], 0.0, MOST)
