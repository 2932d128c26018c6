"""The detection engine of one stream: a pure function of the queries so far. No clock, no Kafka, no files."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from detector.contracts.errors import NewerStateLog
from detector.contracts.queries import QueryBatch
from detector.core.configuration import EngineConfig, Limits, PradaConfig
from detector.core.pipeline.run import MicroBatchRun, Observation
from detector.core.pipeline.store import ENGINE, VERSION, Registry, State
from detector.core.signals import SIGNALS
from detector.core.state.arrays import Section, Sections, pack, unpack
from detector.core.state.principals import PrincipalKey, Shard

__all__ = [
    "Engine",
    "EngineConfig",
    "Limits",
    "Observation",
    "PradaConfig",
    "PrincipalKey",
    "PrincipalStatus",
    "Section",
    "Sections",
    "observe_together",
]


@dataclass(frozen=True, slots=True)
class PrincipalStatus:
    """The state of one principal of one model: ``queries`` taken, ``repeats`` among them, the last ``score`` (NaN
    before any) and whether it is ``flagged``."""

    queries: int
    repeats: int
    score: float
    flagged: bool


class Engine:
    """Judges micro-batches, and returns every change of its state as sections that another engine can absorb.
    ``registry`` is for tests; the service runs all signals."""

    def __init__(self, config: EngineConfig, registry: Registry = SIGNALS) -> None:
        self.config = config
        self.skipped_sections = 0
        self._state = State(config, registry)
        self._shard = Shard()

    def sibling(self) -> Engine:
        """Returns an empty engine for another stream, whose state is in this one's arrays: ``observe_together`` takes a
        micro-batch of each in one call. Siblings are used from one thread at a time."""
        other = copy(self)
        other.skipped_sections, other._shard = 0, Shard()
        return other

    def configuration_hash(self) -> str:
        return self.config.configuration_hash()

    def observe(self, batch: Sequence[QueryBatch]) -> Observation:
        """Learns from ``batch`` and judges each of its rows as of that row."""
        return observe_together([(self, batch)])[0]

    def absorb(self, sections: Sections) -> None:
        """Applies a change that ``observe`` or ``clear`` returned, on this engine or another. Sections of unknown
        signals are skipped and counted; a signal without one starts cold. Raises NewerStateLog, StateLogError."""
        bodies = self._bodies(sections)
        for number, segment in enumerate(bodies.pop(ENGINE, ())):
            self._state.absorb(self._shard, segment, {name: body[number] for name, body in bodies.items()})

    def clear(self, model: str, principal: str) -> Sections:
        """Drops all state of ``principal`` under every version of ``model``, including its latch. Returns nothing if it
        is unknown."""
        slots = self._state.principals.versions_of(self._shard, model, principal)
        if not slots:
            return {}
        keys = [list(key) for key in self._state.principals.keys_of(slots)]
        self._state.evict(self._shard, slots)
        return {ENGINE: (VERSION, pack([{"evicted": keys}]))}

    def close(self) -> None:
        """Drops all state and returns its memory to the siblings; the engine is empty afterwards."""
        self._state.evict(self._shard, list(self._shard.slot_of.values()))
        self._shard = Shard()

    def __len__(self) -> int:
        """Returns the number of principals."""
        return len(self._shard)

    def keys(self) -> list[PrincipalKey]:
        """Returns the keys of all principals, in the order of arrival here."""
        return [PrincipalKey(*key) for key in self._shard.slot_of]

    def dump(self, keys: Sequence[PrincipalKey]) -> Sections:
        """Returns the state of those of ``keys`` that are known, for ``load``."""
        slots = self._shard.find((key.model, key.model_version, key.principal) for key in keys)
        known = np.array([slot for slot in slots if slot >= 0], dtype=np.int64)
        return self._state.dump(self._shard, known)

    def load(self, sections: Sections) -> None:
        """Replaces the principals of a ``dump`` by what it holds."""
        bodies = self._bodies(sections)
        if ENGINE in bodies:
            self._state.load(self._shard, bodies.pop(ENGINE), bodies)

    def status(self, model: str, principal: str) -> PrincipalStatus:
        """Returns the state of ``principal`` over all versions of ``model``; zeros if it is unknown."""
        principals = self._state.principals
        slots = principals.versions_of(self._shard, model, principal)
        if not slots:
            return PrincipalStatus(0, 0, nan, False)
        columns = principals.slots
        queries, repeats, active, score = (columns[name] for name in ("queries", "repeats", "active", "score"))
        return PrincipalStatus(
            sum(int(queries[slot]) for slot in slots),
            sum(int(repeats[slot]) for slot in slots),
            float(score[max(slots, key=active.__getitem__)]),
            bool(principals.accounts["latch"][columns["account"][slots[0]]]),
        )

    def nbytes(self) -> int:
        """Returns the bytes of state, counted from its arrays, including those of all siblings."""
        return self._state.nbytes

    def nbytes_of(self, key: PrincipalKey) -> int:
        """Returns the bytes of one principal's state; 0 if it is unknown."""
        slot = self._shard.slot_of.get((key.model, key.model_version, key.principal))
        return 0 if slot is None else self._state.nbytes_of(slot)

    def _bodies(self, sections: Sections) -> dict[str, Any]:
        """Returns the sections that this engine knows, unpacked."""
        versions = {ENGINE: VERSION, **{signal.name: signal.version for signal in self._state.signals}}
        bodies = {}
        for name, (version, data) in sections.items():
            if name not in versions:
                self.skipped_sections += 1
                continue
            if version > versions[name]:
                raise NewerStateLog(
                    f"section {name!r} has format {version}, this version reads up to {versions[name]}; "
                    "run the version that wrote it or a later one"
                )
            bodies[name] = unpack(data)
        return bodies


def observe_together(work: Sequence[tuple[Engine, Sequence[QueryBatch]]]) -> list[Observation]:
    """Returns what ``observe`` of each engine would, at little more than the cost of one call; they are siblings."""
    if not work:
        return []
    shards, batches = [engine._shard for engine, _ in work], [batch for _, batch in work]
    return MicroBatchRun(work[0][0]._state, shards, batches).run()
