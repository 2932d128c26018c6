"""The whole state of an engine, and the one way it changes, live and in recovery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from detector.core.configuration import EngineConfig
from detector.core.neighbours.history import History, HistoryRows
from detector.core.signals.base import Delta, Signal
from detector.core.state.arrays import Array, Sections, pack
from detector.core.state.principals import MOST_VOTES, Key, Pools, Principals, Shard

Registry = Mapping[str, Callable[[EngineConfig], Signal]]
Record = dict[str, Any]
"""A part of a state section before packing: numbers, strings, arrays, lists and dictionaries of them."""

_UNKNOWN_SIGNAL = 1 << 62
"""The latch bit of a signal that this version does not have."""


class State:
    """Principals, pools, the shared views' vectors and the signals' own state, of all shards in common arrays."""

    def __init__(self, config: EngineConfig, registry: Registry) -> None:
        self.signals: list[Signal] = [build(config) for build in registry.values()]
        self.principals = Principals()
        self.pools = Pools(self.principals.slots)
        self.history = History(self.principals.slots, self.pools, noted=bool(config.judging))

    @property
    def signal_names(self) -> list[str]:
        return [signal.name for signal in self.signals]

    @property
    def columns(self) -> list[str]:
        """The names of the columns shown for each row: the signals and, as signal.figure, their figures."""
        figures = [f"{signal.name}.{figure}" for signal in self.signals for figure in signal.figures]
        return self.signal_names + figures

    def slots_for(self, shard: Shard, keys: Sequence[Key], dimensions: Array) -> Array:
        """Returns int64 (n,): the slots of ``keys``, made where missing and reset where the dimension was another."""
        found = shard.find(keys)
        for at, slot in enumerate(found):
            if slot < 0:
                found[at] = self.principals.add(shard, keys[at], int(dimensions[at]))
        slots = np.array(found, dtype=np.int64)
        changed = np.flatnonzero(self.principals.slots["dimension"][slots] != dimensions)
        if len(changed):
            self.begin_anew(slots[changed], dimensions[changed])
        return slots

    def begin_anew(self, slots: Array, dimensions: Array) -> None:
        """Drops the history of ``slots``, whose queries have other ``dimensions`` now; counters and latch stay."""
        self._forget(slots)
        self.principals.slots["block"][slots] = 0
        self.principals.slots["dimension"][slots] = dimensions

    def evict(self, shard: Shard, slots: Sequence[int]) -> None:
        """Drops ``slots`` and all their state."""
        own = np.array(slots, dtype=np.int64)
        if not len(own):
            return
        self._forget(own)
        self.principals.remove(shard, slots)

    def evict_keys(self, shard: Shard, keys: Sequence[Sequence[str]]) -> None:
        """Drops the ``keys`` that are known."""
        slots = shard.find((model, version, principal) for model, version, principal in keys)
        self.evict(shard, [slot for slot in slots if slot >= 0])

    def apply_step(
        self,
        slots: Array,
        pools: Array,
        step: Record,
        deltas: Mapping[str, Delta],
    ) -> None:
        """Applies one logged step: ``step`` for the shared views, and ``deltas`` by signal name."""
        self.history.advance(slots, step["block"])
        pool = step["row_pool"]
        # Up to the second format no step held a border between blocks.
        block = step["row_block"] if "row_block" in step else step["block"][step["pool_slot"]][pool]
        self.history.append(_history_rows(pools[pool], block, step["row_vector"], step.get("row_note")))
        for signal in self.signals:
            if signal.name in deltas:
                signal.apply(slots, pools, deltas[signal.name])

    def set_counters(self, slots: Array, record: Record) -> None:
        """Sets the counters of ``slots`` after a segment. Logs of the first format have no votes, flips and repeats."""
        columns = self.principals.slots
        for name in ("queries", "active", "score"):
            columns[name][slots] = record[name]
        if "votes" in record:
            for name in ("votes", "flips", "repeats"):
                columns[name][slots] = record[name]
        else:
            columns["votes"][slots] = np.minimum(record["queries"], MOST_VOTES)
        latch = self._own_latch(record["latch"], record["signals"])
        self.principals.accounts["latch"][columns["account"][slots]] = latch

    def counters(self, shard: Shard, slots: Array) -> Record:
        """Returns what ``set_counters`` takes, with the keys and dimensions of ``slots``."""
        columns = self.principals.slots
        return {
            "keys": self.principals.keys_of(slots.tolist()),
            "dimension": columns["dimension"][slots],
            "votes": columns["votes"][slots],
            "flips": columns["flips"][slots],
            "queries": columns["queries"][slots],
            "repeats": columns["repeats"][slots],
            "active": columns["active"][slots],
            "score": columns["score"][slots],
            "latch": self.principals.latch_of(slots),
            "signals": self.signal_names,
            "total": shard.queries,
        }

    def dump(self, shard: Shard, slots: Array) -> tuple[Record, dict[str, Delta]]:
        """Returns the state of ``slots``: the engine's record and each signal's."""
        pools = self.pools.of_slots(slots)
        position = np.full(self.principals.capacity, -1, np.int64)
        position[slots] = np.arange(len(slots))
        owner = position[self.pools.columns["slot"][pools]]
        record = self.counters(shard, slots)
        record["block"] = self.principals.slots["block"][slots]
        record["pool_slot"] = owner
        record["pool_label"] = self.pools.columns["label"][pools]
        record["history"] = self._dump_history(slots, pools, owner)
        return record, {signal.name: signal.dump(slots, pools) for signal in self.signals}

    def load(self, shard: Shard, record: Record, states: Mapping[str, Delta]) -> None:
        """Replaces the principals of a dump by what it holds."""
        keys = [(model, version, principal) for model, version, principal in record["keys"]]
        self.evict_keys(shard, keys)
        slots = self.slots_for(shard, keys, record["dimension"])
        self.set_counters(slots, record)
        shard.queries = max(shard.queries, int(record["total"]))
        self.principals.slots["block"][slots] = record["block"]
        pools = self.pools.find_or_add(slots[record["pool_slot"]], record["pool_label"])
        for part in record["history"]:
            own = pools[part["pool"]]
            self.history.append(_history_rows(own, part["block"], part["vectors"], part.get("notes")))
        for signal in self.signals:
            if signal.name in states:
                signal.load(slots, pools, states[signal.name])

    @property
    def nbytes(self) -> int:
        shared = self.principals.nbytes + self.pools.nbytes + self.history.nbytes
        return shared + sum(signal.nbytes() for signal in self.signals)

    def nbytes_of(self, slot: int) -> int:
        slots = np.array([slot])
        pools = self.pools.of_slots(slots)
        dimension = int(self.principals.slots["dimension"][slot])
        per_row, rows = self.history.row_bytes(dimension), self.history.rows_held(pools)
        own = sum(signal.nbytes(slots, pools) for signal in self.signals)
        return 500 + 250 * len(pools) + rows * per_row + own

    def _forget(self, slots: Array) -> None:
        """Drops the pools of ``slots``, and their state in history and signals."""
        pools = self.pools.of_slots(slots)
        for signal in self.signals:
            signal.evict(slots, pools)
        self.history.evict(pools)
        self.pools.remove(pools)

    def _own_latch(self, latch: Array, names: list[str]) -> Array:
        """Returns ``latch`` with the bits of the signals ``names`` moved to this engine's bits."""
        if names == self.signal_names:
            return latch
        moved = latch & _UNKNOWN_SIGNAL
        for bit, name in enumerate(names):
            own = 1 << self.signal_names.index(name) if name in self.signal_names else _UNKNOWN_SIGNAL
            moved = moved | np.where(latch & (1 << bit), own, 0)
        return moved

    def _dump_history(self, slots: Array, pools: Array, owner: Array) -> list[Record]:
        dimensions = self.principals.slots["dimension"][slots][owner]
        parts = []
        for dimension in np.unique(dimensions).tolist():
            own = np.flatnonzero(dimensions == dimension)
            rows = self.history.rows_of(dimension, pools[own])
            place = np.full(self.pools.capacity, -1, np.int64)
            place[pools[own]] = own
            part = {"pool": place[rows.pool], "block": rows.block, "vectors": rows.vectors}
            parts.append(part | ({"notes": rows.notes} if self.history.noted else {}))
        return parts


def _history_rows(pool: Array, block: Array, vectors: Array, notes: Array | None) -> HistoryRows:
    """Returns history rows; a log that was written without a profile has no notes."""
    return HistoryRows(pool, block, vectors, np.full(len(pool), np.nan, np.float32) if notes is None else notes)


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
