"""The interface of a signal, and the base class of those whose state is kept by slot. A new signal is one file in
``signals/`` and one line in its registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence, Family
from detector.core.neighbours.history import Views
from detector.core.state.arrays import Array
from detector.core.state.columns import ColumnTable, Rings
from detector.core.state.rows import StepRows

PRADA = "prada"
PRADA_FIGURES = ("constant_steps", "repeats")
"""The signal that has another class in each mode."""

Arrays = dict[str, Array]
Events = dict[str, Arrays]


@dataclass(frozen=True, slots=True)
class Delta:
    """A change of a signal's state, or all of it, by what its arrays are aligned with.

    ``slots`` and ``pools``: values of columns, one for each slot or pool. ``events``: what joins the state, by kind.
    The arrays of a kind have equal lengths; its ``slot`` gives ascending positions in the slots.
    """

    slots: Arrays = field(default_factory=dict)
    pools: Arrays = field(default_factory=dict)
    events: Events = field(default_factory=dict)

    def divide(self, slots: Sequence[slice], pools: Sequence[slice]) -> list[Delta]:
        """Returns the part of each run of ``slots``, which follow one another, and of their ``pools``."""
        if not (self.slots or self.pools):
            return [self] * len(slots)
        starts = [*(part.start for part in slots), slots[-1].stop]
        edges = {kind: np.searchsorted(events["slot"], starts).tolist() for kind, events in self.events.items()}
        return [
            Delta(
                {name: values[slot] for name, values in self.slots.items()},
                {name: values[pool] for name, values in self.pools.items()},
                {kind: _cut(events, edges[kind][at : at + 2], slot.start) for kind, events in self.events.items()},
            )
            for at, (slot, pool) in enumerate(zip(slots, pools, strict=True))
        ]

    def to_record(self) -> Arrays:
        """Returns the arrays by the names that they have in the log: ``slot_...``, ``pool_...`` or the kind first."""
        if not (self.slots or self.pools):
            return {}
        groups = {"pool": self.pools, "slot": self.slots, **self.events}
        return {f"{group}_{name}": values for group, columns in groups.items() for name, values in columns.items()}

    @classmethod
    def from_record(cls, record: Arrays) -> Delta:
        groups: Events = {"slot": {}, "pool": {}}
        for full_name, values in record.items():
            group, _, name = full_name.partition("_")
            groups.setdefault(group, {})[name] = values
        return cls(groups.pop("slot"), groups.pop("pool"), groups)


def _cut(events: Arrays, run: list[int], slot: int) -> Arrays:
    """Returns the events of ``run``, from the first to the last but one, with slots counted from ``slot`` on."""
    first, last = run
    part = {name: values[first:last] for name, values in events.items()}
    part["slot"] = part["slot"] - slot
    return part


@dataclass(frozen=True, slots=True)
class Proposal:
    """A signal's results for the ``n`` rows of a step, as of each row, and the resulting change of its state.

    ``statistic`` float64 (n,) in the signal's own unit and ``score`` float64 (n,), 1 at the threshold; NaN while the
    signal has no result. ``alarm`` bool (n,). ``evidence`` for each row at which an alarm rises; ``threshold`` in the
    statistic's unit. ``repeats`` bool (n,), from the one signal that looks for them: queries equal to an earlier one.
    ``figures``: further float64 (n,) columns to show, by name. ``families``: the family of the evidence, by row;
    structure where it names none.
    """

    statistic: NDArray[np.float64]
    score: NDArray[np.float64]
    alarm: NDArray[np.bool_]
    threshold: float
    evidence: Mapping[int, tuple[Evidence, ...]]
    delta: Delta
    repeats: NDArray[np.bool_] | None = None
    figures: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    families: Mapping[int, Family] = field(default_factory=dict)

    @classmethod
    def meter(cls, statistic: NDArray[np.float64], delta: Delta) -> Proposal:
        """Returns a proposal with a ``statistic`` alone."""
        count = len(statistic)
        return cls(statistic, np.full(count, np.nan), np.zeros(count, np.bool_), np.nan, {}, delta)

    @classmethod
    def empty(cls, count: int) -> Proposal:
        """Returns a proposal for ``count`` rows that the signal has no result for."""
        return cls.meter(np.full(count, np.nan), Delta())


class Signal(Protocol):
    """State of one signal over all slots of an engine. Slots and pools are dense integers that are reused.

    ``figures``: names of the further columns it may show.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def figures(self) -> tuple[str, ...]: ...

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        """Judges ``rows``, each as of that row, and learns from them."""

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        """Applies the delta of a proposal, or a dump for empty slots: recovery, without any search. ``slots`` and
        ``pools`` int64 are those of the step, in the order of ``StepRows.slots`` and ``StepRows.pools``."""

    def dump(self, slots: Array, pools: Array) -> Delta:
        """Returns the whole state of ``slots``, whose pools are ``pools``."""

    def evict(self, slots: Array, pools: Array) -> None:
        """Drops ``slots``, whose pools are ``pools``."""

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        """Returns the bytes of all state, or of these slots with these pools."""


class SlotState:
    """Columns and ``rings`` by slot. Deltas hold the values of the ``logged`` columns; what else is kept follows from
    ``unlogged`` columns and events, for which subclasses have ``_events_of`` and ``_apply_events``.

    ``tag``: the column that names what a slot's state rests on, such as a profile. State of another tag is dropped.
    """

    figures: tuple[str, ...] = ()

    def __init__(
        self,
        logged: Mapping[str, tuple[Any, ...]],
        *,
        unlogged: Mapping[str, tuple[Any, ...]] | None = None,
        rings: Sequence[Rings] = (),
        tag: str = "",
    ) -> None:
        self._columns = ColumnTable({**logged, **(unlogged or {})})
        self._logged = tuple(logged)
        self._rings = rings
        self._tag = tag

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        if not delta.slots:
            return
        self._begin(slots, delta.slots[self._tag] if self._tag else None)
        for name in self._logged:
            self._columns[name][slots] = delta.slots[name]
        self._apply_events(slots, delta.events)

    def dump(self, slots: Array, pools: Array) -> Delta:
        self._begin(slots)
        return self._delta(slots, self._events_of(slots))

    def evict(self, slots: Array, pools: Array) -> None:
        self._columns.reset(slots)
        for rings in self._rings:
            rings.evict(slots)

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        if slots is None:
            return self._columns.nbytes + sum(rings.nbytes for rings in self._rings)
        return self._columns.row_bytes * len(slots) + sum(rings.nbytes_of(slots) for rings in self._rings)

    def _begin(self, slots: Array, tag: Array | np.uint64 | None = None) -> None:
        """Makes room for ``slots``; those whose state has another ``tag`` get that of a new account."""
        size = int(slots.max(initial=-1)) + 1
        self._columns.reserve(size)
        for rings in self._rings:
            rings.reserve(size)
        if tag is not None:
            stale = self._columns[self._tag][slots] != tag
            if stale.any():
                self.evict(slots[stale], slots[stale])
                self._columns[self._tag][slots] = tag

    def _delta(self, slots: Array, events: Events) -> Delta:
        """Returns the logged columns of ``slots``, with ``events``."""
        return Delta({name: self._columns[name][slots] for name in self._logged}, events=events)

    def _events_of(self, slots: Array) -> Events:
        """Returns the events that lead to the state of ``slots``."""
        return {}

    def _apply_events(self, slots: Array, events: Events) -> None:
        """Adds ``events`` to the state of ``slots``, whose logged columns are set."""
