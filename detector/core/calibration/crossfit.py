"""Cross-fitting: each account is compared with the queries of the others, without any row that it sent itself, even if
others sent that row too, and without variants of such rows. The scores of its queries are recorded.

Later accounts have rows of their own. In a calibration where accounts share rows, a row is near the variants that
others sent of it, and novel queries would seem rarer than they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import cut
from detector.contracts.queries import QueryBatch
from detector.core.configuration import EngineConfig
from detector.core.engine import Engine
from detector.core.exposure import Validation
from detector.core.measures import MEASURES
from detector.core.owner_model import OwnerModel
from detector.core.owner_model.margins import Margins
from detector.core.profile import Profile
from detector.core.reference.reference import (
    LARGEST,
    NEAREST,
    HonestQueries,
    Reference,
    Rows,
    scale_and_ranges,
    shares,
)
from detector.core.reference.standards import Spread, Standards, Tails
from detector.core.signals import SIGNALS, WEIGHED
from detector.core.signals.extremes import EXTREMES
from detector.core.signals.suspicion import CLOCKS, FOLLOWING, MeasuredQueries, Scales, Suspicion, width
from detector.core.state.arrays import Array
from detector.core.state.rows import StepRows

FEWEST_QUERIES = 10
"""An account with fewer distinct queries does not count for the spread of accounts."""

_FOLDS = 24
_SHARED_BY_SEVERAL = 0.25
"""Maximum share of the others' rows to exclude for several accounts judged together."""
_SHARED_BY_ONE = 0.5
"""An account that sent a larger share of the others' rows is judged in two parts, each with half of these rows."""
_VARIANT = 0.7
"""A variant is closer to its original than this share of the distance to the next common row."""
_FEWEST_ORIGINALS, _MOST_ORIGINALS = 3, 2_000
_CONTENT = ("features", "outputs", "missing", "hardness", "leaf", "specification")


@dataclass(frozen=True, slots=True)
class Fold:
    """Accounts ``inside``, by number, that are compared with the queries of all others. With several ``parts``, the
    rows of one part (``CrossFit.parts``) are compared with those of the other parts."""

    inside: tuple[int, ...]
    parts: int = 1


class CrossFit:
    """Honest ``accounts``, the queries of one principal each, ordered by content. ``order`` int64 (n,): their positions
    in the given sequence."""

    def __init__(self, given: Sequence[QueryBatch]) -> None:
        digests = [_digest(account) for account in given]
        self.order = np.array(sorted(range(len(given)), key=digests.__getitem__), np.int64)
        self.accounts = [given[at] for at in self.order.tolist()]
        self.digests = [digests[at] for at in self.order.tolist()]
        self.honest = [HonestQueries(account.features, account.outputs, account.hardness) for account in self.accounts]
        keys = [account.keys[account.ranked] for account in self.honest]
        self._once, ids = np.unique(np.concatenate(keys), return_inverse=True)
        self._ids = np.split(ids, np.cumsum([len(account) for account in keys])[:-1])
        self._owners = np.bincount(ids)
        self._original = self._once[self._originals()]

    @cached_property
    def long(self) -> NDArray[np.bool_]:
        """bool (n,): accounts that count for the spread: those with ten distinct queries or more, or all accounts if
        fewer than three have that many."""
        long = np.array([len(ids) >= FEWEST_QUERIES for ids in self._ids])
        return long if long.sum() > 2 else np.ones_like(long)

    @cached_property
    def folds(self) -> list[Fold]:
        """The folds. Each account is in one, with few enough others that most rows stay in the reference."""
        order = np.concatenate((np.flatnonzero(self.long), np.flatnonzero(~self.long)))
        count = min(int(self.long.sum()), _FOLDS)
        return [part for fold in range(count) for part in self._folds_with(tuple(order[fold::count].tolist()))]

    def parts(self, at: int, fold: Fold) -> Array:
        """Returns int64 (n,): the part of ``fold`` of each row of account ``at``."""
        originals = self._original[np.searchsorted(self._once, self.honest[at].keys)]
        return np.asarray(originals % np.uint64(fold.parts), np.int64)

    def reference(self, fold: Fold | None = None, part: int = 0) -> Reference:
        """Returns the reference of all accounts outside ``fold``, without rows that accounts inside sent in that
        part."""
        others, offered = self._offered(fold, part)
        return Reference.of([self.honest[at] for at in others], self.accounts[0].output_kind, offered)

    def sample(self, room: int, fold: Fold | None = None, part: int = 0) -> HonestQueries:
        """Returns at most ``room`` queries of all long accounts outside ``fold``, in equal shares. Where an account has
        enough, they are not those that the reference takes."""
        others, offered = self._offered(fold, part)
        taken = shares(
            [ranked[::-1] if self.long[at] else ranked[:0] for at, ranked in zip(others, offered, strict=True)], room
        )
        features = [self.honest[other].features[at] for other, at in zip(others, taken, strict=True)]
        outputs = [self.honest[other].outputs[at] for other, at in zip(others, taken, strict=True)]
        return HonestQueries(np.concatenate(features), np.concatenate(outputs))

    def _offered(self, fold: Fold | None, part: int) -> tuple[list[int], list[Array]]:
        """Returns the accounts outside, and the positions of their rows that may be in the reference."""
        inside = fold.inside if fold else ()
        others = [at for at in range(len(self.honest)) if at not in inside]
        offered = [self.honest[at].ranked for at in others]
        if fold is None:
            return others, offered
        free = ~self._related(inside)
        free |= self._original % np.uint64(fold.parts) != part
        left = [ranked[free[self._ids[at]]] for at, ranked in zip(others, offered, strict=True)]
        return others, left if sum(map(len, left)) > NEAREST else offered

    def _folds_with(self, inside: tuple[int, ...]) -> Iterator[Fold]:
        shared = self._shared(inside)
        if len(inside) == 1:
            yield Fold(inside, 2 if shared > _SHARED_BY_ONE else 1)
        elif shared <= _SHARED_BY_SEVERAL:
            yield Fold(inside)
        else:
            yield from self._folds_with(inside[::2])
            yield from self._folds_with(inside[1::2])

    def _shared(self, inside: Sequence[int]) -> float:
        """Returns the share of the others' distinct rows that accounts inside sent too, or a variant of the same
        row."""
        ids, times = np.unique(np.concatenate([self._ids[at] for at in inside]), return_counts=True)
        others = np.ones(len(self._once), np.bool_)
        others[ids[self._owners[ids] == times]] = False
        return float((others & self._related(inside)).sum()) / max(int(others.sum()), 1)

    def _related(self, inside: Sequence[int]) -> NDArray[np.bool_]:
        """Returns bool (n,): the distinct rows that accounts inside sent too, or a variant of the same row."""
        sent = np.unique(self._original[np.concatenate([self._ids[at] for at in inside])])
        at = np.minimum(np.searchsorted(sent, self._original), len(sent) - 1)
        return np.asarray(sent[at] == self._original)

    def _originals(self) -> Array:
        """Returns int64 (n,): for each distinct row the one that it is a variant of, or itself.

        Accounts that share rows also send variants of them, such as noisy readings or what-if copies. A row of one
        account is a variant of the nearest row that several sent if the second nearest is much farther: the ratio test
        of Lowe (2004). Of very many common rows a sample is compared.
        """
        found, common = np.arange(len(self._once)), np.flatnonzero(self._owners > 1)
        common = common[:: max(-(-len(common) // _MOST_ORIGINALS), 1)]
        if len(common) < _FEWEST_ORIGINALS:
            return found
        from sklearn.neighbors import NearestNeighbors

        originals = np.empty((len(common), self.honest[0].features.shape[1]), np.float32)
        for at, ids in enumerate(self._ids):
            _, row, place = np.intersect1d(ids, common, return_indices=True)
            originals[place] = self._rows(at, row)
        scale, _, _ = scale_and_ranges(originals, np.arange(len(common)))
        search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(originals / scale)
        for at, ids in enumerate(self._ids):
            lone = np.flatnonzero(self._owners[ids] == 1)
            if len(lone):
                distance, nearest = search.kneighbors(self._rows(at, lone) / scale)
                variant = distance[:, 0] < _VARIANT * distance[:, 1]
                found[ids[lone[variant]]] = common[nearest[variant, 0]]
        return found

    def _rows(self, at: int, chosen: Array) -> Rows:
        """Returns float32 (m, d): the ``chosen`` of the distinct rows of account ``at``."""
        account = self.honest[at]
        return account.features[account.ranked[chosen]].clip(-LARGEST, LARGEST)


def _digest(account: QueryBatch) -> bytes:
    """Returns 16 bytes, a hash of queries and answers, and of no name or time."""
    digest = blake2b(digest_size=16)
    for name in _CONTENT:
        column = getattr(account, name)
        digest.update(b"" if column is None else np.ascontiguousarray(column).data)
    return digest.digest()


_MARGIN_ROWS = 10_000
"""Maximum number of honest rows for margins."""


@dataclass(frozen=True)
class OwnerInputs:
    """The owner's ``model`` and ``validation`` set, or None."""

    model: OwnerModel | None = None
    validation: Validation | None = None

    def profile(self, fit: CrossFit, standards: Standards, fold: Fold | None = None, part: int = 0) -> Profile:
        """Returns the profile of the queries of accounts outside ``fold``. Margins are those of the model, made from
        the validation set or else from the honest rows; without a model, those between the probabilities of honest
        rows."""
        first = fit.accounts[0]
        margins = self._validated
        if margins is None and (self.model is not None or first.output_kind == "probabilities"):
            margins = self._margins(fit.sample(_MARGIN_ROWS, fold, part))
        reference = fit.reference(fold, part)
        return Profile(first.model, first.model_version, reference, standards, self.model, margins, self.validation)

    @cached_property
    def _validated(self) -> Margins | None:
        """Does not depend on the accounts, so that the folds of a calibration share them."""
        if self.model is None or self.validation is None:
            return None
        return Margins.of(self.model, self.validation.features)

    def _margins(self, honest: HonestQueries) -> Margins | None:
        twice = 2 if len(honest.features) < 2 else 1
        features, outputs = (np.tile(column, (twice, 1)) for column in (honest.features, honest.outputs))
        return Margins.of(self.model, features, None if self.model is not None else outputs)


NOTHING = OwnerInputs()

COLUMNS = (*MEASURES, *WEIGHED, *FOLLOWING)
"""The columns of standards, in order."""

_ROWS_AT_ONCE = 256
"""Maximum number of queries of one account in a micro-batch."""
_ACCOUNTS_AT_ONCE = 4
"""The number of accounts processed together."""

Floats = NDArray[np.float64]


def unrecorded(count: int) -> MeasuredQueries:
    """Returns the record of ``count`` queries, all NaN."""
    widths = len(MEASURES), len(CLOCKS), len(WEIGHED)
    return MeasuredQueries(*(np.full((count, columns), np.nan) for columns in widths))


def standardised(queries: MeasuredQueries, spread: Spread, tails: Tails | None) -> Floats:
    """Returns float64 (n, columns): the scores as of each of ``queries`` of one account, as in ``suspicion``."""
    measures = list(MEASURES.values())
    alone = np.zeros(len(queries.values), np.int64)
    nothing = np.zeros((1, width(measures))), np.zeros((1, len(EXTREMES)))
    return Scales.of(measures, spread, tails).update(alone, queries, *nothing)


def record(accounts: Sequence[QueryBatch], profile: Profile) -> list[MeasuredQueries]:
    """Returns the scores of ``accounts``, queries of one principal each, compared with ``profile``."""
    config = EngineConfig(profiles=(replace(profile, validation=None),))  # exposure is no part of suspicion
    return [
        queries
        for first in range(0, len(accounts), _ACCOUNTS_AT_ONCE)
        for queries in _record(accounts[first : first + _ACCOUNTS_AT_ONCE], config)
    ]


def _record(accounts: Sequence[QueryBatch], config: EngineConfig) -> list[MeasuredQueries]:
    records = [unrecorded(len(account)) for account in accounts]
    numbered = [replace(account, principals=[str(at)] * len(account.principals)) for at, account in enumerate(accounts)]
    pieces: list[tuple[int, int]] = []

    def listen(rows: StepRows, *columns: Floats) -> None:
        for piece in np.unique(rows.piece).tolist():
            of_piece = rows.piece == piece
            at, start = pieces[piece]
            for part, column in zip(records[at], columns, strict=True):
                part[start + rows.piece_row[of_piece]] = column[of_piece]

    suspicion = partial(Suspicion, measures=MEASURES, others=WEIGHED, listener=listen)
    engine = Engine(config, {**SIGNALS, "suspicion": suspicion})
    for start in range(0, max(map(len, accounts)), _ROWS_AT_ONCE):
        pieces[:] = [(at, start) for at, account in enumerate(accounts) if len(account) > start]
        engine.observe([cut(numbered[at], start, min(start + _ROWS_AT_ONCE, len(numbered[at]))) for at, _ in pieces])
    return records


def blank() -> Standards:
    """Returns standards that flag no account."""
    count = len(COLUMNS)
    spread = Spread(np.zeros(count), np.ones(count), np.ones(count))
    return Standards(COLUMNS, spread, np.zeros((1, count)), np.inf)
