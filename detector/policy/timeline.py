"""The events of each principal whom the ledger must look at, cut out of a micro-batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Finding
from detector.policy.activity import Activity, Key
from detector.policy.case import Event

Place = tuple[int, int]
"""Where in the micro-batch: (2 * row + 1, 0) for a row, (2 * at_row, i) for the count ``i``."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The ``m`` events of one principal of one model, in log order.

    ``place`` int64 (m, 2). ``version`` int64 (m,) into ``versions``, -1 for a count. ``queries`` int64 (m,).
    ``findings`` by event, ``has_finding`` bool (m,).
    """

    key: Key
    versions: list[str]
    place: NDArray[np.int64]
    time: NDArray[np.float64]
    version: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    learning: NDArray[np.bool_]
    queries: NDArray[np.int64]
    has_finding: NDArray[np.bool_]
    findings: dict[int, list[Finding]]

    def __len__(self) -> int:
        return len(self.time)

    def event(self, at: int) -> Event:
        version = int(self.version[at])
        return Event(
            time=float(self.time[at]),
            model_version=None if version < 0 else self.versions[version],
            flagged=bool(self.flagged[at]),
            learning=bool(self.learning[at]),
            queries=int(self.queries[at]),
            findings=self.findings.get(at, ()),
        )

    def place_of(self, at: int) -> Place:
        return int(self.place[at, 0]), int(self.place[at, 1])


def timelines(activity: Activity, known: Collection[Key]) -> Iterator[Timeline]:
    """One timeline for each principal that is flagged somewhere, or ``known`` and active."""
    findings: dict[int, list[Finding]] = {}
    for finding in activity.findings:
        findings.setdefault(finding.row, []).append(finding)
    groups = _groups(activity, known, findings)
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
        yield _timeline(key, versions, owned, activity, counts.get(key, []), findings)


def _groups(activity: Activity, known: Collection[Key], findings: dict[int, list[Finding]]) -> dict[Key, list[int]]:
    """The indices into ``activity.keys`` (one for each model version) of each principal to look at."""
    accused = activity.flagged.copy()
    accused[list(findings)] = True
    suspects = {_key(activity, int(at)) for at in np.unique(activity.key_index[accused])}
    groups: dict[Key, list[int]] = {}
    if suspects or known:
        for at in range(len(activity.keys)):
            key = _key(activity, at)
            if key in suspects or key in known:
                groups.setdefault(key, []).append(at)
        for counted in activity.counts:
            key = counted.count.model, counted.count.principal
            if key in known:
                groups.setdefault(key, [])
    return groups


def _key(activity: Activity, at: int) -> Key:
    identity = activity.keys[at]
    return identity.model, identity.principal


def _timeline(
    key: Key,
    versions: list[str],
    owned: list[NDArray[np.int64]],
    activity: Activity,
    counts: list[int],
    findings: dict[int, list[Finding]],
) -> Timeline:
    """``owned``: the rows of each of ``versions``; ``counts`` index ``activity.counts``."""
    rows = np.concatenate([np.empty(0, dtype=np.int64), *owned])
    version = np.repeat(np.arange(len(versions)), [len(of_version) for of_version in owned])
    counted = [activity.counts[at] for at in counts]
    none = np.full(len(counted), -1)
    place = np.column_stack(
        [
            np.concatenate([2 * rows + 1, [2 * one.at_row for one in counted]]),
            np.concatenate([np.zeros_like(rows), counts]),
        ]
    ).astype(np.int64)
    order = np.lexsort((place[:, 1], place[:, 0]))
    row_of = np.concatenate([rows, none])[order].astype(np.int64)
    mine = {at: findings[row] for at, row in enumerate(row_of.tolist()) if row in findings} if findings else {}
    has_finding = np.zeros(len(order), dtype=np.bool_)
    has_finding[list(mine)] = True
    learning = np.zeros(len(rows), dtype=np.bool_) if activity.learning is None else activity.learning[rows]
    return Timeline(
        key=key,
        versions=versions,
        place=place[order],
        time=np.concatenate([activity.time[rows], [one.time for one in counted]])[order],
        version=np.concatenate([version, none])[order].astype(np.int64),
        flagged=np.concatenate([activity.flagged[rows], none > 0])[order],
        learning=np.concatenate([learning, np.array([one.learning for one in counted], dtype=np.bool_)])[order],
        queries=np.concatenate([np.ones_like(rows), [one.count.queries for one in counted]])[order].astype(np.int64),
        has_finding=has_finding,
        findings=mine,
    )
