"""What a signal is. One file in ``signals/``, one line in its registry, and nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.arrays import Array
from detector.core.rows import Rows
from detector.core.views import Views

Delta = Mapping[str, Array]
"""Named numeric arrays: the values of touched counters after the rows, and rows to append. A name says what it is by:
``slot_...`` holds one value for each of the ``slots`` handed to ``apply`` along with it, ``pool_...`` one for each of
the ``pools``, and ``EVENT_...``, with EVENT any other word, one for each of its events, whose slots ``EVENT_slot``
gives as positions in ``slots``, ascending."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a signal says of the ``n`` rows of a step, as of each row, and the change that makes it remember them.

    ``statistic`` float64 (n,) in the signal's own unit and ``score`` float64 (n,), 1 at the threshold; NaN while
    it is silent. ``alarm`` bool (n,). ``evidence`` for each row at which an alarm rises; ``threshold`` in the
    statistic's unit. ``growing`` bool (n,): rows that join the growing set, from the one signal that owns it.
    ``repeats`` bool (n,), from the same signal: queries asked again word for word.
    ``figures``: further float64 (n,) columns worth showing, by name.
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

    def propose(self, rows: Rows, views: Views) -> Proposal:
        """Judge ``rows``. Changes nothing."""

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        """Take over the delta of a proposal: the same live and in recovery, and never searching. ``slots`` and
        ``pools`` int64 are those of the step, in the order of ``Rows.slots`` and ``Rows.pools``."""

    def dump(self, slots: Array, pools: Array) -> Delta:
        """All that is remembered of ``slots``, whose pools are ``pools``."""

    def load(self, slots: Array, pools: Array, state: Delta) -> None:
        """Take over what ``dump`` gave for as many slots and pools, none of which hold anything now."""

    def evict(self, slots: Array, pools: Array) -> None:
        """Forget ``slots``, whose pools are ``pools``."""

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        """Bytes of state: of all, or of these slots with these pools."""

    def merge(self, states: list[Delta]) -> Delta:
        """The state of a group from its members' dumps. Raises NotMergeable unless ``mergeable``."""
