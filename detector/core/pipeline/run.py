"""One call of ``observe_together``: runs segments and steps, and collects proposals, latches and results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Finding, severity_of
from detector.contracts.queries import BadRow, QueryBatch
from detector.core.configuration import EngineConfig
from detector.core.neighbours.history import Views
from detector.core.pipeline.plan import FlatBatch, Numbered, Planner, Segment, rows_of_step
from detector.core.pipeline.store import Changes, Record, State, shares
from detector.core.profile.profile import ProfileMatcher
from detector.core.profile.reference import ReferenceIndex
from detector.core.signals.base import Delta, Proposal
from detector.core.state.arrays import Array, Sections
from detector.core.state.principals import MOST_VOTES, PrincipalKey, Shard
from detector.core.state.rows import StepRows

_EVICTED_SHARE = 16
DECIDING = ("suspicion",)
"""With a profile, only these signals raise alarms; the budget of false positives applies to them."""


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


@dataclass(frozen=True, slots=True)
class _Rise:
    """The start of an alarm at ``row`` of the stream."""

    row: int
    signal: int
    proposal: Proposal
    own_row: int
    slot: int


@dataclass(slots=True)
class _Columns:
    """The results per row of the stream."""

    index: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    score: NDArray[np.float64]
    repeats: NDArray[np.bool_]
    name: NDArray[np.int64]
    signals: dict[str, NDArray[np.float64]]


@dataclass(slots=True)
class _Of:
    """The other results of one shard; rows are counted within its own micro-batch."""

    changes: Changes
    findings: list[Finding] = field(default_factory=list)
    refused: list[BadRow] = field(default_factory=list)
    evicted: int = 0


class Observing:
    """Runs one micro-batch of each of ``shards``."""

    def __init__(
        self,
        config: EngineConfig,
        fitting: ProfileMatcher,
        state: State,
        references: dict[tuple[str, str], ReferenceIndex],
        shards: Sequence[Shard],
        batches: Sequence[Sequence[QueryBatch]],
    ) -> None:
        self._config = config
        self._state = state
        self._references = references
        self._profiles = {(own.model, own.model_version): own.hash for own in config.profiles}
        self._shards = shards
        self._stream = FlatBatch(batches, fitting)
        self._planner = Planner(self._stream, config, fitting, state, shards)
        count = len(self._stream)
        self._out = _Columns(
            np.full(count, -1, np.int64),
            np.zeros(count, bool),
            np.full(count, np.nan),
            np.zeros(count, bool),
            np.zeros(count, np.int64),
            dict(zip(state.columns, np.full((len(state.columns), count), np.nan), strict=True)),
        )
        self._of = [_Of(Changes(state.signals)) for _ in shards]

    def run(self) -> list[Observation]:
        start = 0
        while start < len(self._stream):
            segment = self._planner.next(start)
            if segment.end > start:
                self._take(segment)
            if segment.full is not None:
                self._make_room(segment.full)
            start = segment.end
        return [self._observation(at) for at in range(len(self._shards))]

    def _make_room(self, at: int) -> None:
        principals, shard, own = self._state.principals, self._shards[at], self._of[at]
        slots = principals.to_forget(shard, max(self._config.limits.principals // _EVICTED_SHARE, 1))
        own.changes.evicted += [list(key) for key in principals.keys_of(slots)]
        self._state.evict(shard, slots)
        own.evicted += len(slots)
        self._planner.look_up()

    def _take(self, segment: Segment) -> None:
        self._planner.admit(segment)
        span = slice(segment.start, segment.end)
        self._out.name[span] = self._planner.name_of[self._stream.key[span]]
        self._refuse(segment.refused)
        rows, steps = segment.accepted, []
        numbered = Numbered.of(self._stream, rows, self._planner.slots, self._state.principals, self._config)
        if len(rows):
            steps = self._run_steps(numbered)
        self._log(numbered, steps, self._counted(segment))

    def _run_steps(self, numbered: Numbered) -> list[list[tuple[Record, dict[str, Delta]]]]:
        """Runs all steps; returns the changes of each step by shard."""
        alarms: dict[str, Array] = {name: np.zeros(len(numbered.rows), bool) for name in self._state.signal_names}
        rises: list[_Rise] = []
        self._out.index[numbered.rows] = numbered.index
        steps = [
            shares(*self._step(numbered, at, alarms, rises), numbered.edges)
            for at in numbered.steps(self._stream.space[numbered.rows])
        ]
        rises.sort(key=lambda rise: (rise.row, rise.signal))
        latch = self._latch(numbered, alarms, rises)
        self._finish(numbered, latch)
        return steps

    def _counted(self, segment: Segment) -> Array:
        """Stores the votes of ``segment``; returns int64 (2, n): shard and slot of each."""
        keys = np.array(list(segment.votes), np.int64)
        shard, slots = self._stream.shard_of_key[keys], self._planner.slots[keys]
        if len(keys):
            columns = self._state.principals.slots
            columns["votes"][slots] = [vote.votes for vote in segment.votes.values()]
            columns["flips"][slots] = [vote.flips for vote in segment.votes.values()]
        return np.stack((shard, slots))

    def _log(
        self, numbered: Numbered, steps: Sequence[Sequence[tuple[Record, dict[str, Delta]]]], counted: Array
    ) -> None:
        """Adds to each shard's changes those of the steps, and the counters of all slots with rows."""
        for at, own in enumerate(self._of):
            slots = numbered.slots[numbered.edges[at] : numbered.edges[at + 1]]
            if counted.size:
                others = counted[1, counted[0] == at]
                slots = np.concatenate((slots, others[~np.isin(others, slots)]))
            if len(slots):
                parts = [step[at] for step in steps if len(step[at][0]["slots"])]
                own.changes.add(parts, self._state.counters(self._shards[at], slots))

    def _step(
        self, numbered: Numbered, at: Array, alarms: dict[str, Array], rises: list[_Rise]
    ) -> tuple[Record, dict[str, Delta]]:
        state = self._state
        rows, place = rows_of_step(self._stream, numbered, at, state)
        reference = self._references.get((rows.model, rows.model_version))
        if reference is not None:
            rows = replace(rows, features=reference.scaled(rows.features))
        views = Views(rows, state.history, reference)
        deciding = DECIDING if views.has_reference else state.signal_names
        growing = np.zeros(len(rows), bool)
        deltas: dict[str, Delta] = {}
        for number, signal in enumerate(state.signals):
            proposal = signal.observe(rows, views)
            self._note(numbered.rows[at], signal.name, proposal)
            views.scores[signal.name] = proposal.score
            if signal.name in deciding:
                self._out.score[numbered.rows[at]] = np.fmax(self._out.score[numbered.rows[at]], proposal.score)
                alarms[signal.name][at] = proposal.alarm
                rises += [
                    _Rise(int(numbered.rows[at[row]]), number, proposal, row, int(rows.slots[rows.slot[row]]))
                    for row in proposal.evidence
                ]
            if proposal.repeats is not None:
                views.repeats = self._out.repeats[numbered.rows[at]] = proposal.repeats
            if proposal.growing is not None:
                growing = proposal.growing
            deltas[signal.name] = proposal.delta
        return self._shared_delta(rows, place, np.flatnonzero(growing)), deltas

    def _shared_delta(self, rows: StepRows, place: Array, kept: Array) -> Record:
        step: Record = {
            "slots": place.astype(np.int32),
            "block": self._state.principals.slots["block"][rows.slots],
            "pool_slot": rows.pool_slot.astype(np.int32),
            "pool_label": rows.pool_label,
            "row_pool": rows.pool[kept].astype(np.int32),
            "row_block": rows.block[kept],
            "row_vector": rows.features[kept],
        }
        if self._state.history.noted:
            step["row_note"] = rows.said[kept]
        return step

    def _note(self, rows: Array, name: str, proposal: Proposal) -> None:
        out, first = self._out, int(rows[0])
        # Writing to a slice is several times faster.
        at = slice(first, first + len(rows)) if int(rows[-1]) - first + 1 == len(rows) else rows
        out.signals[name][at] = proposal.statistic
        for figure, values in proposal.figures.items():
            out.signals[f"{name}.{figure}"][at] = values

    def _latch(self, numbered: Numbered, alarms: dict[str, Array], rises: list[_Rise]) -> Array:
        """Writes findings and verdicts; returns the latch of each slot after the segment."""
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
            self._find(rise)
        self._out.flagged[numbered.rows] = flagged
        after: Array = latch[account]
        return after

    def _unlatched(self, numbered: Numbered, alarms: dict[str, Array], rises: list[_Rise]) -> Array:
        bits = np.zeros(len(numbered.rows), np.int64)
        for number, alarm in enumerate(alarms.values()):
            bits |= np.where(alarm, 1 << number, 0)
        self._out.flagged[numbered.rows] = bits != 0
        for rise in rises:
            self._find(rise)
        latch = np.empty(len(numbered.slots), np.int64)
        latch[numbered.slot] = bits
        return latch

    def _find(self, rise: _Rise) -> None:
        at = int(self._stream.shard[rise.row])
        self._of[at].findings.append(self._finding(rise, rise.row - self._stream.edges[at]))

    def _finding(self, rise: _Rise, row_of_shard: int) -> Finding:
        model, judged_as, principal = self._state.principals.key_of[rise.slot]
        proposal, row, signal = rise.proposal, rise.own_row, self._state.signals[rise.signal].name
        score = float(proposal.score[row])
        return Finding(
            row=row_of_shard,
            model=model,
            model_version=self._stream.version(rise.row),
            principal=principal,
            signal=signal,
            severity=severity_of(score),
            score=score,
            statistic=float(proposal.statistic[row]),
            threshold=proposal.threshold,
            query_index=int(self._out.index[rise.row]),
            evidence=proposal.evidence[row],
            profile=self._profiles.get((model, judged_as)) if signal in DECIDING else None,
        )

    def _finish(self, numbered: Numbered, latch: Array) -> None:
        """Updates the engine's own counters."""
        last = np.empty(len(numbered.slots), np.int64)
        last[numbered.slot] = np.arange(len(numbered.rows))
        rows = np.searchsorted(numbered.shard, np.arange(len(self._stream.edges)))
        before = np.array([shard.queries for shard in self._shards]) - rows[:-1]
        columns = self._state.principals.slots
        count = np.bincount(numbered.slot)
        repeats = np.bincount(numbered.slot[self._out.repeats[numbered.rows]], minlength=len(count))
        counters = {
            "queries": numbered.index[last] + 1,
            "repeats": columns["repeats"][numbered.slots] + repeats,
            "votes": np.minimum(columns["votes"][numbered.slots] + count, MOST_VOTES),
            "flips": columns["flips"][numbered.slots],
            "active": before[numbered.shard[last]] + last,
            "score": self._out.score[numbered.rows[last]],
            "latch": latch,
            "signals": self._state.signal_names,
        }
        self._state.set_counters(numbered.slots, counters)
        for shard, taken in zip(self._shards, np.diff(rows).tolist(), strict=True):
            shard.queries += taken

    def _refuse(self, rows: Array) -> None:
        stream = self._stream
        for row in rows.tolist():
            at, key = int(stream.shard[row]), stream.keys[stream.key[row]]
            named = f"{key[2]!r} sent {stream.dimension[row]} features to {key[0]} {stream.version(row)}"
            if stream.fits[row]:
                reason, detail = "dimension", "which is not what the setting, its profile or most of their queries have"
            else:
                reason, detail = "no-profile", "which has no profile, and none of the model's others fits"
            bad = BadRow(row - stream.edges[at], reason, f"{named}, {detail}", model=key[0], principal=key[2])
            self._of[at].refused.append(bad)

    def _observation(self, at: int) -> Observation:
        out, own, stream = self._out, self._of[at], self._stream
        rows = slice(stream.edges[at], stream.edges[at + 1])
        keys, key_index = self._named(at, rows)
        return Observation(
            keys=keys,
            key_index=key_index,
            index=out.index[rows],
            flagged=out.flagged[rows],
            score=out.score[rows],
            signals={name: column[rows] for name, column in out.signals.items()},
            repeats=out.repeats[rows],
            findings=own.findings,
            sections=own.changes.sections(),
            refused=own.refused,
            evicted=own.evicted,
            repaired=stream.repaired[at],
        )

    def _named(self, at: int, rows: slice) -> tuple[list[PrincipalKey], Array]:
        """Returns the keys of the rows of shard ``at``, and the position of each row's key."""
        names, (first, last) = self._planner.names, self._stream.key_edges[at : at + 2]
        if len(names) == len(self._stream.keys):
            return names[first:last], self._stream.key[rows] - first
        used, key_index = np.unique(self._out.name[rows], return_inverse=True)
        return [names[name] for name in used.tolist()], key_index.astype(np.int32)
