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
_ROWS_AT_ONCE = 4_096
"""The number of queries linked at once: the copies of all of them could be larger than the logs."""


def crowd_of(calibration: Calibration, accounts: Sequence[QueryBatch]) -> Crowd:
    """Returns the crowd of the honest ``accounts`` that ``calibration`` rests on, each compared with the others."""
    by_name = {account.principals[account.principal_index[0]]: account for account in accounts}
    every = [by_name[name] for name in calibration.accounts]
    first = [_first_of_equal(account) for account in every]
    ordered = [
        account if len(rows) == len(account) else take(account, rows)
        for account, rows in zip(every, first, strict=True)
    ]
    links = _links(calibration.profile.reference, ordered)
    spread = _spread([values for _, values in links])
    linked = [
        deviations(*sums_at(values, is_linked, VOLUMES[len(is_linked) >= VOLUMES]), spread)
        for is_linked, values in links
    ]
    exemplars = np.array([deviations_of_links.max(axis=0, initial=0.0) for deviations_of_links in linked])
    comparison = calibration.comparison
    scores = [account_scores[rows] for account_scores, rows in zip(comparison.scores, first, strict=True)]
    reached = np.full((len(VOLUMES), len(ordered)), np.nan)
    for at, account_scores in enumerate(scores):
        due = VOLUMES[len(account_scores) >= VOLUMES]
        if not len(due):
            continue
        by_links = unexplained(linked[at], np.delete(exemplars, at, axis=0))[0]
        total = comparison.by_query(account_scores[due - 1], {at}) + by_links
        reached[: len(due), at] = np.maximum.accumulate(total)
        later = account_scores[_WINDOW:][np.isin(np.arange(len(account_scores) - _WINDOW) % _WINDOW + 1, VOLUMES)]
        if len(later):
            reached[-1, at] = max(reached[-1, at], comparison.by_query(later, {at}).max())
    early = _early(scores, linked)
    by_early = np.full(early.shape[:2], np.nan)
    for volume, every in enumerate(early):
        for at in [at for at, account_scores in enumerate(scores) if len(account_scores) > volume]:
            by_early[volume, at] = unexplained(every[at : at + 1], np.delete(every, at, axis=0))[0][0]
    return Crowd(-np.sort(-reached, axis=1), early, -np.sort(-by_early, axis=1), spread, exemplars, LINKS)


def _early(scores: Sequence[Floats], linked: Sequence[Floats]) -> Floats:
    """Returns float64 (4, a, j + m): the deviations of each account at its first queries, at least 0; 0 where it has
    fewer, which excuses nothing."""
    width = scores[0].shape[1] + linked[0].shape[1]
    early = np.zeros((EARLY, len(scores), width))
    for at, (account_scores, links) in enumerate(zip(scores, linked, strict=True)):
        count = min(len(account_scores), EARLY)
        early[:count, at] = np.maximum(np.concatenate((account_scores[:count], links[:count]), axis=1), 0.0)
    return early


def _first_of_equal(account: QueryBatch) -> Array:
    """Returns the rows that repeat no earlier row of ``account``, int64 (n,), ascending."""
    keys = HonestQueries(account.features, account.outputs).keys
    return np.sort(np.unique(keys, return_index=True)[1])


def _links(reference: Reference, accounts: Sequence[QueryBatch]) -> list[tuple[Mask, Floats]]:
    """Returns for each account which of its queries are linked, bool (n,), and the link measures of these, float64 (m,
    3), when all accounts send at the same time, each evenly from its first query to its last."""
    when = np.concatenate([(np.arange(len(queries)) + 0.5) / len(queries) for queries in accounts])
    account = np.repeat(np.arange(len(accounts)), [len(queries) for queries in accounts])
    order = np.lexsort((account, when))
    index, recent, sampled = ReferenceIndex(reference), Linker(reference), sampled_cells(reference)
    row_in_account = np.concatenate([np.arange(len(queries)) for queries in accounts])
    label = np.concatenate([labels_of(queries) for queries in accounts])
    linked, values = np.zeros(len(order), np.bool_), np.empty((len(order), len(LINKS)))
    for start in range(0, len(order), _ROWS_AT_ONCE):
        rows = order[start : start + _ROWS_AT_ONCE]
        places = zip(account[rows].tolist(), row_in_account[rows].tolist(), strict=True)
        features, points, cells = linkable(index, np.array([accounts[at].features[row] for at, row in places]))
        chosen = selected(row_in_account[rows], cells[:, 0], sampled)[1]
        linked[rows], rows = chosen, rows[chosen]
        kept = features[chosen], points[chosen], cells[chosen]
        values[rows] = recent.link(*kept, account[rows], label[rows]).values
    ends = np.cumsum([len(queries) for queries in accounts])[:-1]
    return [
        (is_linked, each[is_linked])
        for is_linked, each in zip(np.split(linked, ends), np.split(values, ends), strict=True)
    ]


def _spread(values: Sequence[Floats]) -> Spread:
    means = np.array([account_values.mean(axis=0) for account_values in values])
    mean = np.median(means, axis=0)
    between = 1.4826 * np.median(np.abs(means - mean), axis=0)
    within = np.median([account_values.std(axis=0) for account_values in values], axis=0)
    assert len(mean) == len(LINKS)
    return Spread(mean, np.maximum(between, _LEAST_BETWEEN), np.maximum(within, _LEAST_WITHIN))
