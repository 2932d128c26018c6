"""The change of state that one call of ``observe`` made, divided by shard: each shard has a log of its own.

Slots and rows are ordered by shard, so that a shard's part of any array is one slice of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from detector.core.batch import Sections
from detector.core.pipeline.store import Record
from detector.core.signals.base import Delta, Signal
from detector.core.state.arrays import Array, pack

ENGINE = "engine"
VERSION = 3
"""From the second on a dimension may change, and repeats are counted. From the third on each row has its block."""

Steps = Sequence[tuple[Record, Mapping[str, Delta]]]
"""For each step, the change of the engine itself and of each signal."""


class Changes:
    """The log entry of one shard: segments and, alongside, the deltas of each signal."""

    def __init__(self, signals: Sequence[Signal]) -> None:
        self.evicted: list[list[str]] = []
        self._signals = signals
        self._segments: list[Record] = []
        self._deltas: dict[str, list[list[Delta]]] = {signal.name: [] for signal in signals}

    def add(self, steps: Steps, counters: Record) -> None:
        """Adds a segment, after what was evicted before it."""
        self._segments.append({"evicted": self.evicted, "steps": [step for step, _ in steps], **counters})
        for name, own in self._deltas.items():
            own.append([deltas[name] for _, deltas in steps])
        self.evicted = []

    def sections(self) -> Sections:
        """Returns all of it, packed."""
        if self.evicted:
            self.add([], {})
        packed = {ENGINE: (VERSION, pack(self._segments))}
        for signal in self._signals:
            packed[signal.name] = (signal.version, pack(self._deltas[signal.name]))
        return packed


def shares(step: Record, deltas: Mapping[str, Delta], edges: Sequence[int]) -> list[tuple[Record, dict[str, Delta]]]:
    """Returns a step's change divided by shard; ``edges`` are the starts of the shards' slots in the segment, and the
    end."""
    if len(edges) == 2:
        return [(step, dict(deltas))]
    slots = np.searchsorted(step["slots"], edges)
    pools = np.searchsorted(step["pool_slot"], slots)
    shard_of_pool = np.repeat(np.arange(len(edges) - 1), np.diff(pools))
    rows = np.searchsorted(shard_of_pool[step["row_pool"]], np.arange(len(edges)))
    events = {name: _event_edges(delta, slots) for name, delta in deltas.items()}
    cuts = zip(*(pairwise(bounds) for bounds in (edges, *(cut.tolist() for cut in (slots, pools, rows)))), strict=True)
    return [
        (
            _share(step, segment[0], slot, pool, row),
            {name: _delta_share(delta, slot, pool, events[name], at) for name, delta in deltas.items()},
        )
        for at, (segment, slot, pool, row) in enumerate(cuts)
    ]


_Pair = tuple[int, int]


def _share(step: Record, first_slot: int, slot: _Pair, pool: _Pair, row: _Pair) -> Record:
    part: Record = {
        "slots": step["slots"][slice(*slot)] - first_slot,
        "block": step["block"][slice(*slot)],
        "pool_slot": step["pool_slot"][slice(*pool)] - slot[0],
        "pool_label": step["pool_label"][slice(*pool)],
        "row_pool": step["row_pool"][slice(*row)] - pool[0],
        "row_block": step["row_block"][slice(*row)],
        "row_vector": step["row_vector"][slice(*row)],
    }
    if "row_note" in step:
        part["row_note"] = step["row_note"][slice(*row)]
    return part


def _event_edges(delta: Delta, slots: Array) -> dict[str, list[_Pair]]:
    """Returns, by event name, the start and end of each shard's events."""
    names = [name.removesuffix("_slot") for name in delta if name.endswith("_slot")]
    return {name: [*pairwise(np.searchsorted(delta[f"{name}_slot"], slots).tolist())] for name in names}


def _delta_share(delta: Delta, slot: _Pair, pool: _Pair, events: Mapping[str, list[_Pair]], shard: int) -> Delta:
    part: dict[str, Any] = {}
    for name, values in delta.items():
        kind = name.partition("_")[0]
        if kind == "slot":
            part[name] = values[slice(*slot)]
        elif kind == "pool":
            part[name] = values[slice(*pool)]
        else:
            own = values[slice(*events[kind][shard])]
            part[name] = own - slot[0] if name == f"{kind}_slot" else own
    return part
