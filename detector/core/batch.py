"""The input and output of the engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Finding
from detector.contracts.queries import BadRow, QueryBatch

Section = tuple[int, bytes]
"""(format version, bytes): the part of a state record of one signal, the engine or the ledger."""

Sections = dict[str, Section]


class PrincipalKey(NamedTuple):
    """The key of all detection state."""

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
    """The state of one principal of one model: ``queries`` taken, ``repeats`` among them, the last ``score`` (NaN
    before any) and whether it is ``flagged``."""

    queries: int
    repeats: int
    score: float
    flagged: bool


@dataclass(frozen=True, slots=True)
class Observation:
    """The engine's results for each of the ``n`` rows of a micro-batch, in its order, as of that row.

    ``keys`` and ``key_index`` int32 (n,): the state that judged it, which may be that of another version than the
    query's own. ``repeats`` bool (n,): queries equal to an earlier one. ``index`` int64 (n,): the query's number within
    its principal, from 0; -1 where the row was refused. ``flagged`` bool (n,): the verdict. ``score`` float64 (n,):
    normalised suspicion, 1 at the threshold, NaN while no signal has a result. ``signals``: raw statistic of each
    signal, float64 (n,), NaN without a result. ``findings``: one for each row at which a principal became a suspect, in
    row order. ``refused``: rows that could not be judged, because of their dimension or because no profile fits, in row
    order. ``evicted``: how many principals were evicted because the limit was reached. ``repaired``: rows that were odd
    to their profile's form, by a word of ``limits.FORM_REPAIRS``. ``sections``: the change of state, for the state log.
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
    repaired: Counter[str] = field(default_factory=Counter)
