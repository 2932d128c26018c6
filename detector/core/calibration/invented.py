"""Exemplars that nobody is: the ordinary account, and users of what-if tools who ask what honest accounts asked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.calibration.crossfit import CrossFit, Fold
from detector.core.calibration.habits import WHAT_IFS, what_if
from detector.core.measures import MEASURES

_DRAWS, _GROUPS = 12, 2
"""Invented users of each kind, each made from another account where there are enough, and their groups."""
_DONORS = 512
_COVERED = 0.75
"""An exemplar is as extreme in each measure as this share of the invented users of its group at least."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Draw:
    """One invented user: of which ``kind``, with queries of account ``at``; with others of its ``group`` it makes one
    exemplar."""

    kind: int
    group: int
    at: int


def draws(fit: CrossFit, fold: Fold) -> Iterator[tuple[Draw, QueryBatch]]:
    """Those who ask queries of accounts inside ``fold``, with fields as others have them."""
    long = np.flatnonzero(fit.long)
    chosen = [
        Draw(kind, place % _GROUPS, int(at))
        for kind, own in enumerate((long, long[::-1]))
        for place, at in enumerate(own[:_DRAWS])
    ]
    mine = [draw for draw in chosen if draw.at in fold.inside]
    donors = fit.sample(_DONORS, fold).features if mine else np.empty((0, 0), np.float32)
    for draw in mine:
        rows, changes = WHAT_IFS[draw.kind]
        rng = np.random.default_rng([draw.kind, *fit.digests[draw.at]])
        bases = np.sort(fit.honest[draw.at].ranked[:rows])
        yield draw, what_if(fit.accounts[draw.at], bases, donors, changes, rng)


@dataclass(frozen=True, slots=True)
class Invented:
    """What the invented users of ``drawn`` ``reached`` float64 (i, j) in each of the ``measures``."""

    drawn: Sequence[Draw]
    reached: Floats
    measures: Sequence[str]

    def exemplars(self, others: Floats, without: Collection[int] = ()) -> Floats:
        """float64 (e, j): the ordinary account, and one for each group of each kind, made without those that have
        queries of the accounts ``without``. What the model would have told them is not known, so they may be told
        whatever any of the ``others`` (n, j) was."""
        said = np.array([name in MEASURES and MEASURES[name].family == "outputs" for name in self.measures])
        found = [np.zeros(len(self.measures))]
        for kind, group in product(range(len(WHAT_IFS)), range(_GROUPS)):
            of_group = [at for at, draw in enumerate(self.drawn) if (draw.kind, draw.group) == (kind, group)]
            own = [at for at in of_group if self.drawn[at].at not in without]
            if own:
                likely = np.quantile(self.reached[own], _COVERED, axis=0)
                found.append(np.where(said, np.maximum(likely, others.max(axis=0)), likely))
        return np.array(found)
