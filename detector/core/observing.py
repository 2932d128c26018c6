"""One call of ``Engine.observe``: segments and steps, proposals, the latch, and what is said of each row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Finding
from detector.contracts.queries import BadRow
from detector.core.arrays import Array, pack
from detector.core.batch import Observation, PrincipalKey
from detector.core.configuration import EngineConfig
from detector.core.segment import Numbered, Planner, Segment, rows_of_step
from detector.core.signal import Proposal
from detector.core.state import Record, State
from detector.core.stream import Stream
from detector.core.views import ReferenceRows, Rows, Views

ENGINE = "engine"
VERSION = 1
_EVICTED_SHARE = 16
_HIGH_SCORE = 1.5


@dataclass(frozen=True, slots=True)
class _Rise:
    """An alarm that rose at ``row`` of the stream."""

    row: int
    signal: int
    proposal: Proposal
    own_row: int
    slot: int


@dataclass(slots=True)
class _Columns:
    """Per row of the stream, as it will be observed."""

    index: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    score: NDArray[np.float64]
    signals: dict[str, NDArray[np.float64]]
    findings: list[Finding] = field(default_factory=list)
    refused: list[BadRow] = field(default_factory=list)
    evicted: int = 0


class Observing:
    """One call of ``observe``."""

    def __init__(
        self,
        config: EngineConfig,
        state: State,
        references: dict[tuple[str, str], ReferenceRows],
        stream: Stream,
    ) -> None:
        self._config = config
        self._state = state
        self._references = references
        self._stream = stream
        count = len(stream)
        names = state.signal_names
        self._out = _Columns(
            np.full(count, -1, np.int64),
            np.zeros(count, bool),
            np.full(count, np.nan),
            {column: np.full(count, np.nan) for column in state.columns},
        )
        self._segments: list[Record] = []
        self._deltas: dict[str, list[Any]] = {name: [] for name in names}

    def run(self) -> Observation:
        planner = Planner(self._stream, self._config, self._state.principals)
        start = 0
        evicted: list[list[str]] = []
        while start < len(self._stream):
            segment = planner.next(start)
            if segment.end > start:
                self._take(segment, planner, evicted)
                evicted = []
            if segment.full:
                evicted = self._make_room()
            start = segment.end
        return self._observation()

    def _make_room(self) -> list[list[str]]:
        principals = self._state.principals
        slots = principals.to_forget(max(self._config.limits.principals // _EVICTED_SHARE, 1))
        keys = [list(key) for key in principals.keys_of(slots)]
        self._state.evict(slots)
        self._out.evicted += len(slots)
        return keys

    def _take(self, segment: Segment, planner: Planner, evicted: list[list[str]]) -> None:
        stream, state = self._stream, self._state
        self._refuse(segment.refused)
        newcomers = [stream.keys[at] for at in segment.newcomers.tolist()]
        state.slots_for(newcomers, segment.dimensions.tolist())
        record: Record = {"evicted": evicted}
        for steps in self._deltas.values():
            steps.append([])
        if len(segment.accepted):
            slot_of_row = planner.slots()[stream.key[segment.accepted]]
            numbered = Numbered.of(segment.accepted, slot_of_row, state.principals, self._config)
            self._run_steps(numbered, record)
        if len(segment.accepted) or evicted:
            self._segments.append(record)
        else:
            for steps in self._deltas.values():
                steps.pop()

    def _run_steps(self, numbered: Numbered, record: Record) -> None:
        alarms: dict[str, Array] = {name: np.zeros(len(numbered.rows), bool) for name in self._deltas}
        rises: list[_Rise] = []
        self._out.index[numbered.rows] = numbered.index
        record["steps"] = [
            self._step(numbered, at, alarms, rises) for at in numbered.steps(self._stream.space[numbered.rows])
        ]
        rises.sort(key=lambda rise: (rise.row, rise.signal))
        latch = self._latch(numbered, alarms, rises)
        record.update(self._finish(numbered, latch))

    def _step(self, numbered: Numbered, at: Array, alarms: dict[str, Array], rises: list[_Rise]) -> Record:
        state = self._state
        rows, place = rows_of_step(self._stream, numbered, at, state.pools)
        block = np.empty(len(rows.slots), np.int64)
        block[rows.slot] = numbered.block[at]
        state.history.turn(rows.slots, block)
        state.history.flush()
        reference = self._references.get((rows.model, rows.model_version))
        views = Views(rows, state.history, state.previous, reference)
        growing, deltas = np.zeros(len(rows), bool), {}
        for number, signal in enumerate(state.signals):
            proposal = signal.propose(rows, views)
            self._note(numbered.rows[at], signal.name, proposal)
            alarms[signal.name][at] = proposal.alarm
            rises += [
                _Rise(int(numbered.rows[at[row]]), number, proposal, row, int(rows.slots[rows.slot[row]]))
                for row in proposal.evidence
            ]
            if proposal.growing is not None:
                growing = proposal.growing
                views.settle(growing)
            deltas[signal.name] = proposal.delta
            self._deltas[signal.name][-1].append(proposal.delta)
        step = self._shared_delta(rows, place, block, growing)
        state.apply_step(rows.slots, rows.pools, step, deltas)
        return step

    def _shared_delta(self, rows: Rows, place: Array, block: Array, growing: Array) -> Record:
        kept = np.ones(len(rows), bool) if "history" in self._state.needs else growing
        kept = np.flatnonzero(kept)
        step: Record = {
            "slots": place.astype(np.int32),
            "block": block,
            "pool_slot": rows.pool_slot.astype(np.int32),
            "pool_label": rows.pool_label,
            "row_pool": rows.pool[kept].astype(np.int32),
            "row_growing": growing[kept],
            "row_vector": rows.features[kept],
        }
        if "previous" in self._state.needs:
            last = rows.by_slot.starts + rows.by_slot.lengths - 1
            step["previous"] = rows.features[rows.by_slot.order[last]]
        return step

    def _note(self, rows: Array, name: str, proposal: Proposal) -> None:
        out = self._out
        out.signals[name][rows] = proposal.statistic
        out.score[rows] = np.fmax(out.score[rows], proposal.score)
        for figure, values in proposal.figures.items():
            out.signals[f"{name}.{figure}"][rows] = values

    def _latch(self, numbered: Numbered, alarms: dict[str, Array], rises: list[_Rise]) -> Array:
        """Write findings and verdicts; the latch of each slot after the segment."""
        if self._config.mode == "compatible":
            return self._unlatched(numbered, alarms, rises)
        principals = self._state.principals
        account = principals.slots["account"][numbered.slots]
        latch = principals.accounts["latch"]
        flagged = (latch[account] != 0)[numbered.slot]
        for rise in rises:
            own = principals.slots["account"][rise.slot]
            bit = 1 << rise.signal
            if latch[own] & bit:
                continue
            latch[own] |= bit
            flagged |= (account[numbered.slot] == own) & (numbered.rows >= rise.row)
            self._out.findings.append(self._finding(rise))
        self._out.flagged[numbered.rows] = flagged
        after: Array = latch[account]
        return after

    def _unlatched(self, numbered: Numbered, alarms: dict[str, Array], rises: list[_Rise]) -> Array:
        bits = np.zeros(len(numbered.rows), np.int64)
        for number, alarm in enumerate(alarms.values()):
            bits |= np.where(alarm, 1 << number, 0)
        self._out.flagged[numbered.rows] = bits != 0
        self._out.findings += [self._finding(rise) for rise in rises]
        latch = np.empty(len(numbered.slots), np.int64)
        latch[numbered.slot] = bits
        return latch

    def _finding(self, rise: _Rise) -> Finding:
        model, version, principal = self._state.principals.key_of[rise.slot]
        proposal, row = rise.proposal, rise.own_row
        score = float(proposal.score[row])
        severity: Literal["high", "medium"] = "high" if score >= _HIGH_SCORE else "medium"
        return Finding(
            row=rise.row,
            model=model,
            model_version=version,
            principal=principal,
            signal=self._state.signals[rise.signal].name,
            severity=severity,
            score=score,
            statistic=float(proposal.statistic[row]),
            threshold=proposal.threshold,
            query_index=int(self._out.index[rise.row]),
            evidence=proposal.evidence[row],
        )

    def _finish(self, numbered: Numbered, latch: Array) -> Record:
        """Bring the engine's own counters up to date, and say what they are."""
        state = self._state
        last = np.empty(len(numbered.slots), np.int64)
        last[numbered.slot] = np.arange(len(numbered.rows))
        counters = {
            "queries": numbered.index[last] + 1,
            "active": state.queries + last,
            "score": self._out.score[numbered.rows[last]],
            "latch": latch,
            "signals": state.signal_names,
            "total": state.queries + len(numbered.rows),
        }
        state.set_counters(numbered.slots, counters)
        return state.counters(numbered.slots)

    def _refuse(self, rows: Array) -> None:
        for row in rows.tolist():
            key = self._stream.keys[self._stream.key[row]]
            detail = (
                f"{key[2]!r} sent {self._stream.dimension[row]} features to {key[0]} {key[1]}, "
                "which is not the configured dimension or that of its first query"
            )
            self._out.refused.append(BadRow(row, "dimension", detail))

    def _observation(self) -> Observation:
        out = self._out
        packed = {ENGINE: (VERSION, pack(self._segments))}
        for signal in self._state.signals:
            packed[signal.name] = (signal.version, pack(self._deltas[signal.name]))
        return Observation(
            keys=[PrincipalKey(*key) for key in self._stream.keys],
            key_index=self._stream.key,
            index=out.index,
            flagged=out.flagged,
            score=out.score,
            signals=out.signals,
            findings=out.findings,
            sections=packed,
            refused=out.refused,
            evicted=out.evicted,
        )
