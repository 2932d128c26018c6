"""What the engine's measures say of each query of honest accounts, before any standard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch
from detector.core.batch import MicroBatch
from detector.core.configuration import EngineConfig
from detector.core.engine import Engine
from detector.core.profile import Profile
from detector.core.rows import Grouping, Rows
from detector.core.scoring import CHANGE, Scoring, clock_of, width
from detector.core.signals import MEASURES, SIGNALS, WEIGHED
from detector.core.signals.suspicion import Suspicion
from detector.core.standards import Spread, Standards

COLUMNS = (*MEASURES, *WEIGHED, CHANGE)
"""The columns of standards, in order."""

_ROWS = 256

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recording:
    """Of each of n queries of one account: ``values`` float64 (n, j) by measure, ``weights`` (n, 3) by clock,
    ``others`` (n, f)."""

    values: Floats
    weights: Floats
    others: Floats

    def scores(self, spread: Spread) -> Floats:
        """float64 (n, columns): the standardised scores as of each query, as ``suspicion`` forms them."""
        scoring = Scoring(list(MEASURES.values()), spread)
        sums = np.zeros((1, width(list(MEASURES.values()))))
        parts = []
        for at in range(0, len(self.values), _ROWS):
            values, weights, others = (part[at : at + _ROWS].T for part in (self.values, self.weights, self.others))
            alone = Grouping.of(np.zeros(values.shape[1], np.int64), 1)
            scores, sums = scoring.follow(alone, values, weights, others, sums)
            parts.append(scores)
        return np.concatenate(parts)


CLOCK = clock_of(list(MEASURES.values()))[: len(MEASURES)]


def record(accounts: Sequence[QueryBatch], profile: Profile) -> list[Recording]:
    """What the measures say of each of ``accounts``, queries of one principal each, by what ``profile`` knows of
    others."""
    config = EngineConfig(profiles=(replace(profile, validation=None),))  # exposure is no part of suspicion
    return [_record(account, config) for account in accounts]


def _record(account: QueryBatch, config: EngineConfig) -> Recording:
    heard: list[tuple[Floats, Floats, Floats]] = []

    def listen(_rows: Rows, values: Floats, weights: Floats, others: Floats) -> None:
        heard.append((values, weights, others))

    suspicion = partial(Suspicion, measures=MEASURES, others=WEIGHED, listener=listen)
    engine = Engine(config, {**SIGNALS, "suspicion": suspicion})
    for start in range(0, len(account), _ROWS):
        engine.observe(MicroBatch((take(account, np.arange(start, min(start + _ROWS, len(account)))),)))
    return Recording(*(np.concatenate(column) for column in zip(*heard, strict=True)))


def blank() -> Standards:
    """Standards before there are any: nothing is a verdict."""
    count = len(COLUMNS)
    spread = Spread(np.zeros(count), np.ones(count), np.ones(count))
    return Standards(COLUMNS, spread, np.zeros((1, count)), np.inf)
