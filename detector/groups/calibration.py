"""How far honest accounts go together: the crowd that groups are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import Calibration
from detector.core.pipeline.plan import labels_of
from detector.core.reference.reference import HonestQueries, Reference, ReferenceIndex
from detector.core.reference.standards import EARLY, VOLUMES, Crowd, Floats, Spread, unexplained
from detector.core.signals.suspicion import FAMILIES
from detector.core.state.arrays import Array
from detector.groups.links import (
    LINKS,
    Linker,
    Mask,
    deviations,
    linkable,
    sampled_cells,
    selected,
    sums_at,
)

_LEAST_BETWEEN, _LEAST_WITHIN = 0.05, 0.15
_WINDOW = int(VOLUMES[-1])
_ROWS = 4_096
"""The number of queries linked at once: the copies of all of them could be larger than the logs."""


def crowd_of(calibration: Calibration, accounts: Sequence[QueryBatch]) -> Crowd:
    """Returns the crowd of the honest ``accounts`` that ``calibration`` rests on, each compared with the others."""
    by_name = {account.principals[account.principal_index[0]]: account for account in accounts}
    every = [by_name[name] for name in calibration.accounts]
    first = [_first_of_equal(own) for own in every]
    ordered = [own if len(rows) == len(own) else take(own, rows) for own, rows in zip(every, first, strict=True)]
    links = _links(calibration.profile.reference, ordered)
    spread = _spread([values for _, values in links])
    linked = [deviations(*sums_at(values, own, VOLUMES[len(own) >= VOLUMES]), spread) for own, values in links]
    exemplars = np.array([own.max(axis=0, initial=0.0) for own in linked])
    comparison = calibration.comparison
    scores = [score[rows] for score, rows in zip(comparison.scores, first, strict=True)]
    reached = np.full((len(VOLUMES), len(ordered)), np.nan)
    for at, own in enumerate(scores):
        due = VOLUMES[len(own) >= VOLUMES]
        if not len(due):
            continue
        by_links = unexplained(linked[at], np.delete(exemplars, at, axis=0))[0]
        total = comparison.by_query(own[due - 1], {at}) + by_links
        reached[: len(due), at] = np.maximum.accumulate(total)
        later = own[_WINDOW:][np.isin(np.arange(len(own) - _WINDOW) % _WINDOW + 1, VOLUMES)]
        if len(later):
            reached[-1, at] = max(reached[-1, at], comparison.by_query(later, {at}).max())
    shown, early = _early(scores, linked, calibration.profile.standards.measures)
    by_early = np.full(early.shape[:2], np.nan)
    for volume, every in enumerate(early):
        for at in [at for at, score in enumerate(scores) if len(score) > volume]:
            by_early[volume, at] = unexplained(shown[volume, at : at + 1], np.delete(every, at, axis=0))[0][0]
    return Crowd(-np.sort(-reached, axis=1), early, -np.sort(-by_early, axis=1), spread, exemplars, LINKS)


def _early(scores: Sequence[Floats], linked: Sequence[Floats], measures: Sequence[str]) -> tuple[Floats, Floats]:
    """Returns float64 (4, a, j + m) twice: the deviations of each account at its first queries, at least 0; 0 where it
    has fewer, which excuses nothing. And what it excuses: the same, but in structure and links the largest that it ever
    reached, as it is chance when an account begins to vary its rows, or comes near another's."""
    width = scores[0].shape[1] + linked[0].shape[1]
    shown = np.zeros((EARLY, len(scores), width))
    whenever = [FAMILIES[name] in ("structure", "protocol") for name in measures] + [True] * len(LINKS)
    for at, (own, links) in enumerate(zip(scores, linked, strict=True)):
        count = min(len(own), EARLY)
        shown[:count, at] = np.maximum(np.concatenate((own[:count], links[:count]), axis=1), 0.0)
    excused = shown.copy()
    for at, (own, links) in enumerate(zip(scores, linked, strict=True)):
        ever = np.maximum(np.concatenate((own.max(axis=0), links.max(axis=0, initial=0.0))), 0.0)
        excused[:, at, whenever] = ever[whenever]
    return shown, excused


def _first_of_equal(account: QueryBatch) -> Array:
    """Returns the rows that repeat no earlier row of ``account``, int64 (n,), ascending."""
    keys = HonestQueries(account.features, account.outputs).keys
    return np.sort(np.unique(keys, return_index=True)[1])


def _links(reference: Reference, accounts: Sequence[QueryBatch]) -> list[tuple[Mask, Floats]]:
    """Returns for each account which of its queries are linked, bool (n,), and the link measures of these, float64 (m,
    3), when all accounts send at the same time, each evenly from its first query to its last."""
    when = np.concatenate([(np.arange(len(account)) + 0.5) / len(account) for account in accounts])
    account = np.repeat(np.arange(len(accounts)), [len(account) for account in accounts])
    order = np.lexsort((account, when))
    index, recent, sampled = ReferenceIndex(reference), Linker(reference), sampled_cells(reference)
    own_row = np.concatenate([np.arange(len(account)) for account in accounts])
    label = np.concatenate([labels_of(account) for account in accounts])
    linked, values = np.zeros(len(order), np.bool_), np.empty((len(order), len(LINKS)))
    for start in range(0, len(order), _ROWS):
        rows = order[start : start + _ROWS]
        places = zip(account[rows].tolist(), own_row[rows].tolist(), strict=True)
        features, points, cells = linkable(index, np.array([accounts[at].features[row] for at, row in places]))
        chosen = selected(own_row[rows], cells[:, 0], sampled)[1]
        linked[rows], rows = chosen, rows[chosen]
        kept = features[chosen], points[chosen], cells[chosen]
        values[rows] = recent.link(*kept, account[rows], label[rows]).values
    ends = np.cumsum([len(account) for account in accounts])[:-1]
    return [(own, each[own]) for own, each in zip(np.split(linked, ends), np.split(values, ends), strict=True)]


def _spread(values: Sequence[Floats]) -> Spread:
    means = np.array([value.mean(axis=0) for value in values])
    mean = np.median(means, axis=0)
    between = 1.4826 * np.median(np.abs(means - mean), axis=0)
    within = np.median([value.std(axis=0) for value in values], axis=0)
    assert len(mean) == len(LINKS)
    return Spread(mean, np.maximum(between, _LEAST_BETWEEN), np.maximum(within, _LEAST_WITHIN))
