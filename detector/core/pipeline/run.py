"""One call of ``observe_together``: runs the segments of micro-batches step by step, and collects the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Finding, severity_of
from detector.contracts.queries import BadRow, QueryBatch
from detector.core.loops.compiled import compiled
from detector.core.neighbours.history import Views
from detector.core.neighbours.search import NearestOwn
from detector.core.pipeline.plan import FlatBatch, Planner, Segment
from detector.core.pipeline.store import Record, ShardLog, State, Step, divide
from detector.core.signals.base import Delta, Proposal
from detector.core.state.arrays import Array, Sections
from detector.core.state.principals import MOST_VOTES, PrincipalKey, Shard
from detector.core.state.rows import StepRows

DECIDING = ("suspicion",)
"""With a profile, only these signals raise alarms; the budget of false positives applies to them."""

Rise = tuple[int, int, int, Finding]
"""The start of an alarm: row of the batch, number of the signal, slot, and the finding if the latch is not set yet."""


@dataclass(frozen=True, slots=True)
class ProfiledRows:
    """Rows of a micro-batch that the profile of ``model`` and ``model_version`` judged, n in stream order: what the
    engine computed on the way to its verdicts, for those who judge the same rows further.

    ``row`` int64 (n,): their positions in the micro-batch. ``number`` int64 (n,): how many queries, repeats left out,
    the principal had sent before. ``repeats`` bool (n,). ``label`` int64 (n,): the predicted class. ``features``
    float32 (n, d), scaled, ``points`` float32 (n, k) and ``residual`` float64 (n,), their projection, and ``cells``
    int64 (n, 4), the nearest rows of the profile's reference, nearest first (``Neighbours``).
    """

    model: str
    model_version: str
    row: Array
    number: Array
    repeats: NDArray[np.bool_]
    label: Array
    features: NDArray[np.float32]
    points: NDArray[np.float32]
    residual: NDArray[np.float64]
    cells: Array

    @classmethod
    def of(cls, rows: StepRows, views: Views, where: Array, sent: Array) -> ProfiledRows:
        """Returns the rows of one step, which are at ``where`` int64 (n,) in the batch. ``sent`` int64 (s,): how many
        queries, repeats left out, each of their slots had sent before."""
        number, projection = np.empty(len(where), np.int64), views.projection
        _number(rows.slot, views.repeats, sent.copy(), number)
        return cls(
            rows.model,
            rows.model_version,
            where,
            number,
            views.repeats,
            rows.pool_label[rows.pool],
            rows.features,
            projection.points,
            projection.residual,
            views.neighbours.cells,
        )

    def divided(self, edges: Sequence[int]) -> list[ProfiledRows]:
        """Returns the rows from each of ``edges`` to the next, which may be none, counted from there."""
        bounds = np.searchsorted(self.row, edges).tolist()
        return [
            self._between(start, end, edge)
            for edge, start, end in zip(edges[:-1], bounds[:-1], bounds[1:], strict=True)
        ]

    def _between(self, start: int, end: int, edge: int) -> ProfiledRows:
        part = slice(start, end)
        return replace(
            self,
            row=self.row[part] - edge,
            number=self.number[part],
            repeats=self.repeats[part],
            label=self.label[part],
            features=self.features[part],
            points=self.points[part],
            residual=self.residual[part],
            cells=self.cells[part],
        )


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
    ``profiled``: the rows that profiles with a crowd judged, those of one profile in stream order.
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
    profiled: list[ProfiledRows] = field(default_factory=list)


class MicroBatchRun:
    """Runs one micro-batch of each of ``shards``. Arrays are over all rows of these."""

    def __init__(self, state: State, shards: Sequence[Shard], batches: Sequence[Sequence[QueryBatch]]) -> None:
        self._state = state
        self._shards = shards
        self._profiles = {(profile.model, profile.model_version): profile.hash for profile in state.config.profiles}
        crowded = [profile for profile in state.config.judging if profile.crowd is not None]
        self._crowded = {(profile.model, profile.model_version) for profile in crowded}
        self._batch = FlatBatch(batches, state.matcher)
        self._logs = [ShardLog(state) for _ in shards]
        self._planner = Planner(self._batch, state, shards, self._logs)
        self._unlatched = state.config.mode == "compatible"
        self._findings: list[list[Finding]] = [[] for _ in shards]
        self._profiled: list[list[ProfiledRows]] = [[] for _ in shards]
        count, columns = len(self._batch), state.columns
        self._name, self._index = np.zeros(count, np.int64), np.full(count, -1, np.int64)
        self._flagged, self._repeats = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        self._score = np.full(count, np.nan)
        self._columns = dict(zip(columns, np.full((len(columns), count), np.nan), strict=True))

    def run(self) -> list[Observation]:
        for segment in self._planner.segments():
            span = slice(segment.start, segment.end)
            self._name[span] = self._planner.name_of[self._batch.key[span]]
            self._index[segment.rows] = segment.index
            alarms, rises = np.zeros(len(segment.rows), np.int64), list[Rise]()
            steps = [
                divide(self._step(segment, at, alarms, rises), segment.edges) for at in self._planner.steps(segment)
            ]
            self._count(segment, self._latch(segment, alarms, rises))
            self._log(segment, steps)
        return [self._observation(at) for at in range(len(self._shards))]

    def _step(self, segment: Segment, at: Array, alarms: Array, rises: list[Rise]) -> Step:
        """Runs one step. Sets bits of ``alarms`` int64 (n,), one for each signal, if these are the verdict, and adds to
        ``rises``."""
        state = self._state
        rows, position = self._planner.rows(segment, at)
        reference = state.reference_of(rows)
        if reference is not None:
            rows = replace(rows, features=reference.scaled(rows.features))
        views = state.history.admit(rows, reference, state.exact_threshold(rows))
        deciding = state.signal_names if reference is None else DECIDING
        where, deltas = segment.rows[at], dict[str, Delta]()
        for number, signal in enumerate(state.signals):
            proposal = signal.observe(rows, views)
            views.scores[signal.name] = proposal.score
            if proposal.repeats is not None:
                views.repeats = self._repeats[where] = proposal.repeats
            self._write_columns(where, signal.name, proposal)
            if signal.name in deciding:
                self._score[where] = np.fmax(self._score[where], proposal.score)
                if self._unlatched:
                    alarms[at] |= np.where(proposal.alarm, 1 << number, 0)
                rises += self._rises(where, rows, number, proposal)
            deltas[signal.name] = proposal.delta
        if reference is not None and (rows.model, rows.model_version) in self._crowded:
            self._keep_profiled(rows, views, where)
        record = self._record(rows, position, views.nearest_own)
        return record, state.with_thresholds(deltas, rows.pools)

    def _keep_profiled(self, rows: StepRows, views: Views, where: Array) -> None:
        counters = self._state.principals.slots
        sent = counters["queries"][rows.slots] - counters["repeats"][rows.slots]
        profiled = ProfiledRows.of(rows, views, where, sent)
        for of_shard, part in zip(self._profiled, profiled.divided(self._batch.edges), strict=True):
            if len(part.row):
                of_shard.append(part)

    def _record(self, rows: StepRows, position: Array, nearest: NearestOwn) -> Record:
        """Returns the change of the engine's own state: blocks, pools, and the rows that joined growing sets."""
        joined = np.flatnonzero(nearest.joined)
        record: Record = {
            "slots": position.astype(np.int32),
            "block": self._state.principals.slots["block"][rows.slots],
            "pool_slot": rows.pool_slot.astype(np.int32),
            "pool_label": rows.pool_label,
            "row_pool": rows.pool[joined].astype(np.int32),
            "row_block": nearest.block[joined],
            "row_vector": rows.features[joined],
        }
        return record | ({"row_note": rows.answer[joined]} if self._state.history.noted else {})

    def _write_columns(self, where: Array, name: str, proposal: Proposal) -> None:
        first = int(where[0])
        # Writing to a slice is several times faster.
        at = slice(first, first + len(where)) if int(where[-1]) - first + 1 == len(where) else where
        self._columns[name][at] = proposal.statistic
        for figure, values in proposal.figures.items():
            self._columns[f"{name}.{figure}"][at] = values

    def _rises(self, where: Array, rows: StepRows, number: int, proposal: Proposal) -> Iterable[Rise]:
        for at, evidence in proposal.evidence.items():
            row, slot = int(where[at]), int(rows.slots[rows.slot[at]])
            model, judged_as, principal = self._state.principals.key_of[slot]
            name, score = self._state.signals[number].name, float(proposal.score[at])
            finding = Finding(
                row=row - self._batch.edges[self._batch.shard[row]],
                model=model,
                model_version=self._batch.version(row),
                principal=principal,
                signal=name,
                severity=severity_of(score),
                score=score,
                statistic=float(proposal.statistic[at]),
                threshold=proposal.threshold,
                query_index=int(self._index[row]),
                evidence=evidence,
                profile=self._profiles.get((model, judged_as)) if name in DECIDING else None,
                family=proposal.families.get(at, "structure"),
            )
            yield row, number, slot, finding

    def _latch(self, segment: Segment, alarms: Array, rises: list[Rise]) -> Array:
        """Writes findings and verdicts; returns the latch of each slot after the segment."""
        principals, unlatched = self._state.principals, self._unlatched
        account, latch = principals.slots["account"][segment.slots], principals.accounts["latch"]
        flagged = alarms != 0 if unlatched else (latch[account] != 0)[segment.slot]
        for row, number, slot, finding in sorted(rises, key=lambda rise: rise[:2]):
            suspect, bit = principals.slots["account"][slot], 1 << number
            if not unlatched:
                if latch[suspect] & bit:
                    continue
                latch[suspect] |= bit
                flagged |= (account[segment.slot] == suspect) & (segment.rows >= row)
            self._findings[self._batch.shard[row]].append(finding)
        self._flagged[segment.rows] = flagged
        after: Array = latch[account]
        if unlatched:
            after[segment.slot] = alarms
        return after

    def _count(self, segment: Segment, latch: Array) -> None:
        """Updates the counters of the segment's slots and shards."""
        columns, slots = self._state.principals.slots, segment.slots
        counters: Record = {name: columns[name][slots] for name in ("votes", "flips", "active", "score")}
        home = self._batch.shard[segment.rows]
        first_rows = np.searchsorted(home, np.arange(len(self._batch.edges)))
        number = np.array([shard.queries for shard in self._shards])[home] + np.arange(len(home)) - first_rows[home]
        counters["active"][segment.slot], counters["score"][segment.slot] = number, self._score[segment.rows]
        count = np.bincount(segment.slot, minlength=len(slots))
        repeats = np.bincount(segment.slot[self._repeats[segment.rows]], minlength=len(slots))
        counters["queries"] = columns["queries"][slots] + count
        counters["repeats"] = columns["repeats"][slots] + repeats
        counters["votes"] = np.minimum(counters["votes"] + count, MOST_VOTES)
        for at, vote in segment.votes.items():
            counters["votes"][at], counters["flips"][at] = vote.votes, vote.flips
        self._state.set_counters(slots, counters | {"latch": latch, "signals": self._state.signal_names})
        for shard, judged in zip(self._shards, np.diff(first_rows).tolist(), strict=True):
            shard.queries += judged

    def _log(self, segment: Segment, steps: Sequence[Sequence[Step]]) -> None:
        """Adds to each shard's log the changes of the steps, and the counters of all its slots."""
        for at, log in enumerate(self._logs):
            slots = segment.slots[segment.edges[at] : segment.edges[at + 1]]
            if len(slots):
                parts = [step[at] for step in steps if len(step[at][0]["slots"])]
                log.add(parts, self._state.counters(self._shards[at], slots))

    def _observation(self, at: int) -> Observation:
        rows = slice(self._batch.edges[at], self._batch.edges[at + 1])
        keys, key_index = self._keys(at, rows)
        return Observation(
            keys=keys,
            key_index=key_index,
            index=self._index[rows],
            flagged=self._flagged[rows],
            score=self._score[rows],
            signals={name: column[rows] for name, column in self._columns.items()},
            repeats=self._repeats[rows],
            findings=self._findings[at],
            sections=self._logs[at].sections(),
            refused=self._planner.refused[at],
            evicted=self._planner.evicted[at],
            repaired=self._batch.repaired[at],
            profiled=self._profiled[at],
        )

    def _keys(self, at: int, rows: slice) -> tuple[list[PrincipalKey], Array]:
        """Returns the keys of the rows of shard ``at``, and the position of each row's key."""
        names, (first, last) = self._planner.names, self._batch.key_edges[at : at + 2]
        if len(names) == len(self._batch.keys):
            return names[first:last], self._batch.key[rows] - first
        used, key_index = np.unique(self._name[rows], return_inverse=True)
        return [names[name] for name in used.tolist()], key_index.astype(np.int32)


@compiled
def _number(slot: Array, repeats: NDArray[np.bool_], sent: Array, number: Array) -> None:
    """Row after row, fills ``number`` (n,) with what its slot has ``sent`` (s,), and counts it."""
    for row in range(len(slot)):
        number[row] = sent[slot[row]]
        sent[slot[row]] += not repeats[row]
