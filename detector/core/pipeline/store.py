"""The whole state of an engine, the one way it changes, live and in recovery, and the log of its changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from detector.core.configuration import EngineConfig
from detector.core.neighbours.history import History, HistoryRows
from detector.core.neighbours.search import Recompute
from detector.core.profile import ProfileMatcher
from detector.core.reference.reference import ReferenceIndex
from detector.core.signals.base import PRADA, Delta, Signal
from detector.core.signals.prada_published import PublishedPrada
from detector.core.state.arrays import Array, Sections, pack
from detector.core.state.principals import MOST_VOTES, Key, Pools, PrincipalKey, Principals, Shard
from detector.core.state.rows import StepRows

Registry = Mapping[str, Callable[[EngineConfig], Signal]]
Record = dict[str, Any]
"""A part of a state section before packing: numbers, strings, arrays, lists and dictionaries of them."""
Step = tuple[Record, dict[str, Delta]]
"""The change that a step made to the engine's own state, and to that of each signal."""

ENGINE = "engine"
VERSION = 3
"""From the second on a dimension may change, and repeats are counted. From the third on each row has its block."""
THRESHOLDS = PRADA
"""The section that the thresholds of the growing sets are logged in."""

_COUNTERS = ("queries", "repeats", "votes", "flips", "active", "score")
_UNKNOWN_SIGNAL = 1 << 62
"""The latch bit of a signal that this version does not have."""


class State:
    """What siblings have in common: the configuration, and in common arrays of all shards the principals, pools,
    growing sets and signals."""

    def __init__(self, config: EngineConfig, registry: Registry) -> None:
        self.config = config
        self.matcher = ProfileMatcher(config.judging, config.outputs)
        self.signals: list[Signal] = [build(config) for build in registry.values()]
        self.signal_names = [signal.name for signal in self.signals]
        self.principals = Principals()
        self.pools = Pools(self.principals.slots)
        self.history = History(self.principals.slots, self.pools, config.block_rows, noted=bool(config.judging))
        self._references = {
            (profile.model, profile.model_version): ReferenceIndex(profile.reference) for profile in config.judging
        }
        self._published = next((signal for signal in self.signals if isinstance(signal, PublishedPrada)), None)

    @property
    def columns(self) -> list[str]:
        """The names of the columns shown for each row: the signals and, as signal.figure, their figures."""
        figures = [f"{signal.name}.{figure}" for signal in self.signals for figure in signal.figures]
        return self.signal_names + figures

    def reference_of(self, rows: StepRows) -> ReferenceIndex | None:
        """Returns the reference of the profile that judges ``rows``, None without one of their dimension."""
        index = self._references.get((rows.model, rows.model_version))
        return index if index is not None and index.reference.dimension == rows.features.shape[1] else None

    def exact_threshold(self, rows: StepRows) -> Recompute | None:
        """Returns the published agent's threshold of ``rows`` in compatible mode, else None."""
        return None if self._published is None else self._published.threshold_of(rows)

    def slots_for(self, shard: Shard, keys: Sequence[Key], dimensions: Array) -> Array:
        """Returns int64 (n,): the slots of ``keys``, made where missing and reset where the dimension was another."""
        slots = np.array(shard.find(keys), dtype=np.int64)
        for at in np.flatnonzero(slots < 0).tolist():
            slots[at] = self.principals.add(shard, keys[at], int(dimensions[at]))
        changed = np.flatnonzero(self.principals.slots["dimension"][slots] != dimensions)
        if len(changed):
            self.reset_history(slots[changed], dimensions[changed])
        return slots

    def reset_history(self, slots: Array, dimensions: Array) -> None:
        """Drops the history of ``slots``, whose queries have other ``dimensions`` now; counters and latch stay."""
        self._forget(slots)
        self.principals.slots["block"][slots], self.principals.slots["filled"][slots] = 0, 0
        self.principals.slots["dimension"][slots] = dimensions

    def evict(self, shard: Shard, slots: Sequence[int]) -> None:
        """Drops ``slots`` and all their state."""
        if slots:
            self._forget(np.array(slots, dtype=np.int64))
            self.principals.remove(shard, slots)

    def evict_keys(self, shard: Shard, keys: Sequence[Sequence[str]]) -> None:
        """Drops the ``keys`` that are known."""
        slots = shard.find((model, version, principal) for model, version, principal in keys)
        self.evict(shard, [slot for slot in slots if slot >= 0])

    def absorb(self, shard: Shard, segment: Record, deltas: Mapping[str, Sequence[Record]]) -> None:
        """Applies a logged segment: its steps, of which ``deltas`` has the changes by signal, and its counters."""
        self.evict_keys(shard, segment["evicted"])
        if "keys" not in segment:
            return
        slots = self.slots_for(shard, _keys(segment), segment["dimension"])
        for number, step in enumerate(segment["steps"]):
            step_slots = slots[step["slots"]]
            pools = self.pools.find_or_add(step_slots[step["pool_slot"]], step["pool_label"])
            self.history.advance(step_slots, step["block"])
            pool = step["row_pool"]
            # Up to the second format no step held a border between blocks.
            block = step["row_block"] if "row_block" in step else step["block"][step["pool_slot"]][pool]
            self.history.append(_history_rows(pools[pool], block, step["row_vector"], step.get("row_note")))
            self._apply(step_slots, pools, {name: steps[number] for name, steps in deltas.items()})
        self.set_counters(slots, segment)
        shard.queries = max(shard.queries, int(segment["total"]))

    def set_counters(self, slots: Array, record: Record) -> None:
        """Sets the counters of ``slots`` after a segment. Logs of the first format have no votes, flips and repeats."""
        columns = self.principals.slots
        for name in _COUNTERS:
            if name in record:
                columns[name][slots] = record[name]
        if "votes" not in record:
            columns["votes"][slots] = np.minimum(record["queries"], MOST_VOTES)
        latch = self._own_latch(record["latch"], record["signals"])
        self.principals.accounts["latch"][columns["account"][slots]] = latch

    def counters(self, shard: Shard, slots: Array) -> Record:
        """Returns what ``set_counters`` takes, with the keys and dimensions of ``slots``."""
        columns = self.principals.slots
        return {
            "keys": self.principals.keys_of(slots.tolist()),
            "dimension": columns["dimension"][slots],
            **{name: columns[name][slots] for name in _COUNTERS},
            "latch": self.principals.latch_of(slots),
            "signals": self.signal_names,
            "total": shard.queries,
        }

    def dump(self, shard: Shard, slots: Array) -> Sections:
        """Returns the state of ``slots``."""
        pools = self.pools.of_slots(slots)
        position = np.full(self.principals.slots.count, -1, np.int64)
        position[slots] = np.arange(len(slots))
        owner = position[self.pools.columns["slot"][pools]]
        record = self.counters(shard, slots)
        record["block"] = self.principals.slots["block"][slots]
        record["pool_slot"] = owner
        record["pool_label"] = self.pools.columns["label"][pools]
        record["history"] = self._dump_history(slots, pools, owner)
        deltas = self.with_thresholds({signal.name: signal.dump(slots, pools) for signal in self.signals}, pools)
        return self.packed(record, {name: delta.to_record() for name, delta in deltas.items()})

    def load(self, shard: Shard, record: Record, states: Mapping[str, Record]) -> None:
        """Replaces the principals of a dump by what it holds."""
        keys = _keys(record)
        self.evict_keys(shard, keys)
        slots = self.slots_for(shard, keys, record["dimension"])
        self.set_counters(slots, record)
        shard.queries = max(shard.queries, int(record["total"]))
        self.principals.slots["block"][slots] = record["block"]
        pools = self.pools.find_or_add(slots[record["pool_slot"]], record["pool_label"])
        for part in record["history"]:
            part_pools = pools[part["pool"]]
            self.history.append(_history_rows(part_pools, part["block"], part["vectors"], part.get("notes")))
        self._apply(slots, pools, states)

    def with_thresholds(self, deltas: dict[str, Delta], pools: Array) -> dict[str, Delta]:
        """Returns ``deltas`` by signal, with the thresholds of the growing sets of ``pools`` in their section."""
        if THRESHOLDS in deltas:
            logged = deltas[THRESHOLDS]
            deltas[THRESHOLDS] = Delta(logged.slots, self.history.thresholds_of(pools), logged.events)
        return deltas

    def packed(self, record: Any, bodies: Mapping[str, Any]) -> Sections:
        """Returns the sections of the engine's own ``record`` and of the signals' ``bodies``."""
        sections = {signal.name: (signal.version, pack(bodies[signal.name])) for signal in self.signals}
        return {ENGINE: (VERSION, pack(record)), **sections}

    @property
    def nbytes(self) -> int:
        shared = self.principals.nbytes + self.pools.nbytes + self.history.nbytes
        return shared + sum(signal.nbytes() for signal in self.signals)

    def nbytes_of(self, slot: int) -> int:
        slots = np.array([slot])
        pools = self.pools.of_slots(slots)
        dimension = int(self.principals.slots["dimension"][slot])
        per_row, rows = self.history.row_bytes(dimension), self.history.rows_held(pools)
        signals = sum(signal.nbytes(slots, pools) for signal in self.signals)
        return 500 + 282 * len(pools) + rows * per_row + signals

    def _apply(self, slots: Array, pools: Array, records: Mapping[str, Record]) -> None:
        """Applies logged changes, or dumps, by signal."""
        for signal in self.signals:
            if signal.name in records:
                delta = Delta.from_record(records[signal.name])
                signal.apply(slots, pools, delta)
                if signal.name == THRESHOLDS:
                    self.history.set_thresholds(pools, delta.pools)

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
            here = 1 << self.signal_names.index(name) if name in self.signal_names else _UNKNOWN_SIGNAL
            moved = moved | np.where(latch & (1 << bit), here, 0)
        return moved

    def _dump_history(self, slots: Array, pools: Array, owner: Array) -> list[Record]:
        dimensions = self.principals.slots["dimension"][slots][owner]
        parts = []
        for dimension in np.unique(dimensions).tolist():
            chosen = np.flatnonzero(dimensions == dimension)
            rows = self.history.rows_of(dimension, pools[chosen])
            position = np.full(self.pools.columns.count, -1, np.int64)
            position[pools[chosen]] = chosen
            part = {"pool": position[rows.pool], "block": rows.block, "vectors": rows.vectors}
            parts.append(part | ({"notes": rows.notes} if self.history.noted else {}))
        return parts


def _keys(record: Record) -> list[Key]:
    return [(model, version, principal) for model, version, principal in record["keys"]]


def _history_rows(pool: Array, block: Array, vectors: Array, notes: Array | None) -> HistoryRows:
    """Returns history rows; a log that was written without a profile has no notes."""
    return HistoryRows(pool, block, vectors, np.full(len(pool), np.nan, np.float32) if notes is None else notes)


class ShardLog:
    """The change of one shard's state in one call, for the state log: segments and, alongside, the deltas of each
    signal. ``evicted``: the principals evicted since the last segment."""

    def __init__(self, state: State) -> None:
        self.evicted: list[PrincipalKey] = []
        self._state = state
        self._segments: list[Record] = []
        self._deltas: dict[str, list[list[Record]]] = {name: [] for name in state.signal_names}

    def add(self, steps: Sequence[Step], counters: Record) -> None:
        """Adds a segment, after what was evicted before it."""
        self._segments.append({"evicted": self.evicted, "steps": [step for step, _ in steps], **counters})
        for name, logged in self._deltas.items():
            logged.append([deltas[name].to_record() for _, deltas in steps])
        self.evicted = []

    def sections(self) -> Sections:
        """Returns all of it, packed."""
        if self.evicted:
            self.add([], {})
        return self._state.packed(self._segments, self._deltas)


def divide(step: Step, edges: Sequence[int]) -> list[Step]:
    """Returns a step's change divided by shard, as each shard has its own log. ``edges``: the starts of the
    shards' slots in the segment, and the end. Slots, pools and rows are ordered by shard, so each part is a slice."""
    if len(edges) == 2:
        return [step]
    record, deltas = step
    slots = np.searchsorted(record["slots"], edges)
    pools = np.searchsorted(record["pool_slot"], slots)
    shard_of_pool = np.repeat(np.arange(len(edges) - 1), np.diff(pools))
    rows = np.searchsorted(shard_of_pool[record["row_pool"]], np.arange(len(edges)))
    cuts = _slices(slots), _slices(pools), _slices(rows)
    parts = {name: delta.divide(*cuts[:2]) for name, delta in deltas.items()}
    divided = []
    for at, (slot, pool, row) in enumerate(zip(*cuts, strict=True)):
        part = {
            "slots": record["slots"][slot] - edges[at],
            "block": record["block"][slot],
            "pool_slot": record["pool_slot"][pool] - slot.start,
            "pool_label": record["pool_label"][pool],
            "row_pool": record["row_pool"][row] - pool.start,
        }
        part |= {name: record[name][row] for name in ("row_block", "row_vector", "row_note") if name in record}
        divided.append((part, {name: divisions[at] for name, divisions in parts.items()}))
    return divided


def _slices(edges: Array) -> list[slice]:
    return [slice(*pair) for pair in pairwise(edges.tolist())]
