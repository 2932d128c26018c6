"""What goes into the engine and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Finding
from detector.contracts.queries import BadRow, QueryBatch

Section = tuple[int, bytes]
"""(format version, bytes): one signal's, the engine's or the ledger's part of a state record."""

Sections = dict[str, Section]


class PrincipalKey(NamedTuple):
    """Whose state: all detection state is keyed by this."""

    model: str
    model_version: str
    principal: str


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Queries in log order: the concatenation of ``pieces``, possibly of several models and dimensions."""

    pieces: tuple[QueryBatch, ...]

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the engine holds of one principal of one model: ``queries`` taken, ``repeats`` among them, the last
    ``score`` (NaN before any) and whether it is ``flagged``."""

    queries: int
    repeats: int
    score: float
    flagged: bool


@dataclass(frozen=True, slots=True)
class Observation:
    """What the engine says of each of the ``n`` rows of a micro-batch, in its order, as of that row.

    ``keys`` and ``key_index`` int32 (n,): whose state judged it, which may be that of another version than the query's
    own. ``repeats`` bool (n,): queries asked again word for word. ``index`` int64 (n,): the query's number within its
    principal, from 0; -1 where the row was refused. ``flagged`` bool (n,): the verdict. ``score`` float64 (n,):
    normalised suspicion, 1 at the threshold, NaN while no signal has spoken. ``signals``: raw statistic of each
    signal, float64 (n,), NaN while silent. ``findings``: one for each row at which a principal became a
    suspect, in row order. ``refused``: rows that nothing could judge, for their dimension or as no
    profile fits, in row order. ``evicted``: how many
    principals were forgotten for space. ``sections``: the change of state, for the state log.
    """

    keys: list[PrincipalKey]
    key_index: NDArray[np.int32]
    index: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    score: NDArray[np.float64]
    signals: dict[str, NDArray[np.float64]]
    repeats: NDArray[np.bool_]
    findings: list[Finding]
    sections: Sections
    refused: list[BadRow] = field(default_factory=list)
    evicted: int = 0
