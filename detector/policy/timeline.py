"""The events of a micro-batch, by principal, for the principals that the ledger must look at."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Finding
from detector.policy.activity import Activity, Key, Place, Turn
from detector.policy.principal import PolicyEvent


@dataclass(frozen=True, slots=True)
class Timeline:
    """The ``m`` events of one principal of one model, in log order.

    ``row`` int64 (m,): the row, or for a count the row after it; ``count`` int64 (m,): its index among the counts, -1
    for a row. ``version`` int64 (m,) into ``versions``, -1 without a verdict. ``queries`` int64 (m,). ``score`` float64
    (m,), NaN without a score, and ``index`` int64 (m,), as in the activity. ``findings`` and ``turns`` by event, at
    most one turn each; ``has_finding`` bool (m,): events with a finding or a turn.
    """

    key: Key
    versions: list[str]
    row: NDArray[np.int64]
    count: NDArray[np.int64]
    time: NDArray[np.float64]
    version: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    learning: NDArray[np.bool_]
    queries: NDArray[np.int64]
    score: NDArray[np.float64]
    index: NDArray[np.int64]
    has_finding: NDArray[np.bool_]
    findings: dict[int, list[Finding]]
    turns: Mapping[int, Turn] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.time)

    def event(self, at: int) -> PolicyEvent:
        version = int(self.version[at])
        return PolicyEvent(
            time=float(self.time[at]),
            model_version=None if version < 0 else self.versions[version],
            flagged=bool(self.flagged[at]),
            learning=bool(self.learning[at]),
            queries=int(self.queries[at]),
            score=float(self.score[at]),
            query_index=int(self.index[at]),
            findings=self.findings.get(at, ()),
            turn=self.turns.get(at),
        )

    def place_of(self, at: int) -> Place:
        row, count = int(self.row[at]), int(self.count[at])
        return (2 * row + 1, 0) if count < 0 else (2 * row, count)


def timelines(activity: Activity, known: Collection[Key], turns: Mapping[Key, Sequence[Turn]]) -> Iterator[Timeline]:
    """Yields a timeline for each principal that is flagged at a row, has ``turns``, or is ``known`` and active."""
    findings: dict[int, list[Finding]] = {}
    for finding in activity.findings:
        findings.setdefault(finding.row, []).append(finding)
    groups = _groups(activity, known, turns.keys(), findings)
    if not groups:
        return
    counts: dict[Key, list[int]] = {}
    for at, counted in enumerate(activity.counts):
        counts.setdefault((counted.count.model, counted.count.principal), []).append(at)
    by_key = np.argsort(activity.key_index, kind="stable")
    bounds = np.searchsorted(activity.key_index[by_key], np.arange(len(activity.keys) + 1))
    for key, members in groups.items():
        owned = [by_key[bounds[member] : bounds[member + 1]] for member in members]
        versions = [activity.keys[member].model_version for member in members]
        timeline = _of_rows(key, versions, owned, activity, findings)
        if key in counts:
            timeline = _with_counts(timeline, activity, counts[key])
        yield _with_turns(timeline, turns[key]) if key in turns else timeline


def _groups(
    activity: Activity, known: Collection[Key], turning: Collection[Key], findings: dict[int, list[Finding]]
) -> dict[Key, list[int]]:
    """The indices into ``activity.keys`` (one for each model version) of each principal to look at."""
    accused = activity.flagged
    if findings:
        accused = accused.copy()
        accused[list(findings)] = True
    accused_keys = [activity.keys[at] for at in {*activity.key_index[accused].tolist()}]
    suspects = {(identity.model, identity.principal) for identity in accused_keys} | set(turning)
    groups: dict[Key, list[int]] = {}
    if suspects or known:
        for at, identity in enumerate(activity.keys):
            key = identity.model, identity.principal
            if key in suspects or key in known:
                groups.setdefault(key, []).append(at)
        for counted in activity.counts:
            key = counted.count.model, counted.count.principal
            if key in suspects or key in known:
                groups.setdefault(key, [])
    return groups


def _of_rows(
    key: Key,
    versions: list[str],
    owned: list[NDArray[np.int64]],
    activity: Activity,
    findings: dict[int, list[Finding]],
) -> Timeline:
    """The timeline without counts and turns; ``owned``: the rows of each of ``versions``."""
    rows = np.concatenate([np.empty(0, dtype=np.int64), *owned])
    version = np.repeat(np.arange(len(versions)), [len(of_version) for of_version in owned])
    if len(versions) > 1:
        order = np.argsort(rows)
        rows, version = rows[order], version[order]
    if activity.judged is not None:
        version[~activity.judged[rows]] = -1
    mine = {at: findings[row] for at, row in enumerate(rows.tolist()) if row in findings} if findings else {}
    has_finding = np.zeros(len(rows), dtype=np.bool_)
    has_finding[list(mine)] = True
    return Timeline(
        key=key,
        versions=versions,
        row=rows,
        count=np.full(len(rows), -1),
        time=activity.time[rows],
        version=version,
        flagged=activity.flagged[rows],
        learning=np.zeros(len(rows), dtype=np.bool_) if activity.learning is None else activity.learning[rows],
        queries=np.ones(len(rows), dtype=np.int64),
        score=np.full(len(rows), np.nan) if activity.score is None else activity.score[rows],
        index=np.zeros(len(rows), dtype=np.int64) if activity.index is None else activity.index[rows],
        has_finding=has_finding,
        findings=mine,
    )


def _with_counts(timeline: Timeline, activity: Activity, counts: list[int]) -> Timeline:
    """``timeline`` with the counts of these indices inserted; a count comes before its row."""
    counted = [activity.counts[at] for at in counts]
    places = np.searchsorted(timeline.row, [one.at_row for one in counted], side="left")
    no = [False] * len(counted)
    has_finding = np.insert(timeline.has_finding, places, no)
    findings = dict(zip(np.flatnonzero(has_finding).tolist(), timeline.findings.values(), strict=True))
    return Timeline(
        key=timeline.key,
        versions=timeline.versions,
        row=np.insert(timeline.row, places, [one.at_row for one in counted]),
        count=np.insert(timeline.count, places, counts),
        time=np.insert(timeline.time, places, [one.time for one in counted]),
        version=np.insert(timeline.version, places, [-1] * len(counted)),
        flagged=np.insert(timeline.flagged, places, no),
        learning=np.insert(timeline.learning, places, [one.learning for one in counted]),
        queries=np.insert(timeline.queries, places, [one.count.queries for one in counted]),
        score=np.insert(timeline.score, places, np.full(len(counted), np.nan)),
        index=np.insert(timeline.index, places, [0] * len(counted)),
        has_finding=has_finding,
        findings=findings,
    )


def _with_turns(timeline: Timeline, turns: Sequence[Turn]) -> Timeline:
    at_place = {timeline.place_of(at): at for at in range(len(timeline))}
    at = {at_place[turn.place]: turn for turn in turns}
    has_finding = timeline.has_finding.copy()
    has_finding[list(at)] = True
    return replace(timeline, has_finding=has_finding, turns=at)
