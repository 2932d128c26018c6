"""The interface of a signal. A new signal is one file in ``signals/`` and one line in its registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.neighbours.history import Views
from detector.core.state.arrays import Array
from detector.core.state.rows import StepRows

Delta = Mapping[str, Array]
"""Named numeric arrays: the values of touched counters after the rows, and rows to append.

The name says what an array is aligned with: ``slot_...`` with the ``slots`` passed to ``apply``, ``pool_...`` with the
``pools``, and ``EVENT_...``, for any other word EVENT, with that word's events, whose slots ``EVENT_slot`` gives as
ascending positions in ``slots``.
"""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A signal's results for the ``n`` rows of a step, as of each row, and the resulting change of its state.

    ``statistic`` float64 (n,) in the signal's own unit and ``score`` float64 (n,), 1 at the threshold; NaN while the
    signal has no result. ``alarm`` bool (n,). ``evidence`` for each row at which an alarm rises; ``threshold`` in the
    statistic's unit. ``growing`` bool (n,): rows that join the growing set, from the one signal that owns it.
    ``repeats`` bool (n,), from the same signal: queries equal to an earlier one. ``figures``: further float64 (n,)
    columns to show, by name.
    """

    statistic: NDArray[np.float64]
    score: NDArray[np.float64]
    alarm: NDArray[np.bool_]
    threshold: float
    evidence: Mapping[int, tuple[Evidence, ...]]
    delta: Delta
    growing: NDArray[np.bool_] | None = None
    repeats: NDArray[np.bool_] | None = None
    figures: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


class Signal(Protocol):
    """State of one signal over all slots of an engine. Slots and pools are dense integers that are reused.

    ``figures``: names of the further columns it may show. ``mergeable``: whether the states of two principals can
    be added up without their queries (``merge``).
    """

    name: ClassVar[str]
    version: ClassVar[int]
    mergeable: ClassVar[bool]

    @property
    def figures(self) -> tuple[str, ...]: ...

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        """Judges ``rows``, each as of that row, and learns from them."""

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        """Applies the delta of a proposal: recovery from the log, without any search. ``slots`` and ``pools`` int64 are
        those of the step, in the order of ``StepRows.slots`` and ``StepRows.pools``."""

    def dump(self, slots: Array, pools: Array) -> Delta:
        """Returns the whole state of ``slots``, whose pools are ``pools``."""

    def load(self, slots: Array, pools: Array, state: Delta) -> None:
        """Restores what ``dump`` returned for as many slots and pools, all of which are empty."""

    def evict(self, slots: Array, pools: Array) -> None:
        """Drops ``slots``, whose pools are ``pools``."""

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        """Returns the bytes of all state, or of these slots with these pools."""

    def merge(self, states: list[Delta]) -> Delta:
        """Returns the state of a group, merged from its members' dumps. Raises NotMergeable unless ``mergeable``."""
