"""Records the raw values of the engine's measures for each query of honest accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import cut
from detector.contracts.queries import QueryBatch
from detector.core.configuration import EngineConfig
from detector.core.engine import Engine
from detector.core.measures import MEASURES
from detector.core.profile.profile import Profile
from detector.core.profile.standards import Spread, Standards
from detector.core.signals import SIGNALS, WEIGHED
from detector.core.signals.suspicion import CHANGE, CLOCKS, Queries, Scoring, Suspicion, clock_of, width
from detector.core.state.rows import StepRows

COLUMNS = (*MEASURES, *WEIGHED, CHANGE)
"""The columns of standards, in order."""

_ROWS = 256
"""Maximum number of queries of one account in a micro-batch."""
_TOGETHER = 4
"""The number of accounts processed together."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recording:
    """For n queries of one account: ``values`` float64 (n, j) by measure, ``weights`` (n, 3) by clock,
    ``others`` (n, f)."""

    values: Floats
    weights: Floats
    others: Floats

    @classmethod
    def empty(cls, count: int) -> Recording:
        """Returns a recording of ``count`` queries, all NaN."""
        return cls(*(np.full((count, wide), np.nan) for wide in (len(MEASURES), len(CLOCKS), len(WEIGHED))))

    def take(self, rows: NDArray[np.bool_], other: Recording) -> None:
        """Copies ``rows`` bool (n,) from ``other``."""
        for own, said in zip(self._parts, other._parts, strict=True):
            own[rows] = said[rows]

    @property
    def _parts(self) -> tuple[Floats, Floats, Floats]:
        return self.values, self.weights, self.others

    def scores(self, spread: Spread) -> Floats:
        """Returns float64 (n, columns): the standardised scores as of each query, computed as in ``suspicion``."""
        measures = list(MEASURES.values())
        alone = np.zeros(len(self.values), np.int64)
        return Scoring(measures, spread).follow(alone, Queries(*self._parts), np.zeros((1, width(measures))))


CLOCK = clock_of(list(MEASURES.values()))[: len(MEASURES)]


def record(accounts: Sequence[QueryBatch], profile: Profile) -> list[Recording]:
    """Returns the values of the measures for each of ``accounts``, queries of one principal each, compared with
    ``profile``."""
    config = EngineConfig(profiles=(replace(profile, validation=None),))  # exposure is no part of suspicion
    found: list[Recording] = []
    for first in range(0, len(accounts), _TOGETHER):
        found += _record(accounts[first : first + _TOGETHER], config)
    return found


def _record(accounts: Sequence[QueryBatch], config: EngineConfig) -> list[Recording]:
    recordings = [Recording.empty(len(own)) for own in accounts]
    numbered = [replace(own, principals=[str(at)] * len(own.principals)) for at, own in enumerate(accounts)]
    there: list[tuple[int, int]] = []

    def listen(rows: StepRows, *said: Floats) -> None:
        for piece in np.unique(rows.batch).tolist():
            of_piece = rows.batch == piece
            at, start = there[piece]
            position = start + rows.batch_row[of_piece]
            own = recordings[at]
            for part, column in zip((own.values, own.weights, own.others), said, strict=True):
                part[position] = column[of_piece]

    suspicion = partial(Suspicion, measures=MEASURES, others=WEIGHED, listener=listen)
    engine = Engine(config, {**SIGNALS, "suspicion": suspicion})
    for start in range(0, max(map(len, accounts)), _ROWS):
        there[:] = [(at, start) for at, own in enumerate(accounts) if len(own) > start]
        engine.observe([cut(numbered[at], start, min(start + _ROWS, len(numbered[at]))) for at, _ in there])
    return recordings


def blank() -> Standards:
    """Returns placeholder standards that flag no account."""
    count = len(COLUMNS)
    spread = Spread(np.zeros(count), np.ones(count), np.ones(count))
    return Standards(COLUMNS, spread, np.zeros((1, count)), np.inf)
