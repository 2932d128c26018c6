"""The events of a micro-batch, by principal, for the principals that the ledger must look at."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Family, Finding
from detector.policy.activity import Accusation, Activity, Affiliation, Key

_COLUMNS = np.dtype(
    [
        ("position", np.int64),
        ("time", np.float64),
        ("version", np.int64),
        ("flagged", np.bool_),
        ("learning", np.bool_),
        ("queries", np.int64),
        ("score", np.float64),
        ("query_index", np.int64),
        ("exposure", np.float64),
        ("affiliation", np.int64),
    ]
)


@dataclass(frozen=True, slots=True)
class PolicyEvent:
    """One row, or (``model_version`` None) ``queries`` without a verdict, at ``position`` of the micro-batch."""

    position: int
    time: float
    model_version: str | None
    findings: Sequence[Finding]
    accusations: Sequence[Accusation]
    flagged: bool
    learning: bool
    queries: int
    score: float
    query_index: int
    exposure: float
    affiliation: Affiliation | None
    family: Family | None

    @property
    def accuses(self) -> bool:
        """Whether a verdict or an accusation makes the principal a suspect here."""
        return self.flagged or bool(self.findings) or bool(self.accusations)


@dataclass(frozen=True, slots=True)
class Timeline:
    """The ``m`` events of one principal of one model, in log order.

    ``events``: structured array (m,). Its field ``version`` is an index into ``versions``, or -1 without a verdict;
    ``score`` and ``exposure`` are NaN without one, and ``affiliation``, an index into ``affiliations``, is -1.
    ``findings`` and ``accusations`` of the micro-batch, by position. ``has_finding`` bool (m,): events with one of
    these. ``has_family`` bool (m,): events with one of ``families``.
    """

    key: Key
    versions: list[str]
    affiliations: list[Affiliation]
    events: NDArray[np.void]
    has_finding: NDArray[np.bool_]
    has_family: NDArray[np.bool_]
    families: Mapping[int, Family]
    findings: Mapping[int, Sequence[Finding]]
    accusations: Mapping[int, Sequence[Accusation]]

    def __len__(self) -> int:
        return len(self.events)

    def event(self, at: int) -> PolicyEvent:
        """Returns the event ``at``."""
        position, time, version, *others, number = self.events[at].item()
        model_version = None if version < 0 else self.versions[version]
        findings, accusations = self.findings.get(position, ()), self.accusations.get(position, ())
        others += [None if number < 0 else self.affiliations[number], self.families.get(position)]
        return PolicyEvent(position, time, model_version, findings, accusations, *others)


def timelines(
    activity: Activity, known: Collection[Key], accusations: Mapping[int, Sequence[Accusation]]
) -> Iterator[Timeline]:
    """Yields a timeline for each principal that is flagged at a row, has ``accusations``, or is ``known`` and
    active. ``accusations`` by position."""
    suspects = _suspects(activity) | {accusation.key for accusation in chain.from_iterable(accusations.values())}
    members, counts = _members(activity, suspects, known) if suspects or known else ({}, {})
    if not members:
        return
    positions, (affiliations, affiliation_of) = activity.row_positions(), _affiliations(activity)
    families = {int(positions[row]): family for row, family in activity.families.items()}
    findings: dict[int, list[Finding]] = {}
    for finding in activity.findings:
        findings.setdefault(int(positions[finding.row]), []).append(finding)
    with_finding = np.array([*findings, *accusations], np.int64)
    by_key = np.argsort(activity.key_index, kind="stable")
    bounds = np.searchsorted(activity.key_index[by_key], np.arange(len(activity.keys) + 1))
    for key, indices in members.items():
        rows_of = [by_key[bounds[at] : bounds[at + 1]] for at in indices]
        events = _events(activity, positions, affiliation_of, rows_of, counts.get(key, []))
        has_finding = (
            np.isin(events["position"], with_finding) if len(with_finding) else np.zeros(len(events), np.bool_)
        )
        has_family = np.isin(events["position"], [*families]) if families else np.zeros(len(events), np.bool_)
        versions = [activity.keys[at].model_version for at in indices]
        yield Timeline(key, versions, affiliations, events, has_finding, has_family, families, findings, accusations)


def _members(
    activity: Activity, suspects: Collection[Key], known: Collection[Key]
) -> tuple[dict[Key, list[int]], dict[Key, list[int]]]:
    """Returns, for each principal to look at, the indices of their keys (one for each model version), and of their
    counts."""
    members: dict[Key, list[int]] = {}
    for at in range(len(activity.keys)):
        if (key := _key(activity, at)) in suspects or key in known:
            members.setdefault(key, []).append(at)
    counts: dict[Key, list[int]] = {}
    for at, counted in enumerate(activity.counts):
        if (key := (counted.count.model, counted.count.principal)) in suspects or key in known:
            counts.setdefault(key, []).append(at)
            members.setdefault(key, [])
    return members, counts


def _suspects(activity: Activity) -> set[Key]:
    """Returns the principals that are flagged or have a finding at a row."""
    flagged = activity.flagged
    if activity.findings:
        flagged = flagged.copy()
        flagged[[finding.row for finding in activity.findings]] = True
    return {_key(activity, at) for at in {*activity.key_index[flagged].tolist()}}


def _key(activity: Activity, at: int) -> Key:
    return activity.keys[at].model, activity.keys[at].principal


def _affiliations(activity: Activity) -> tuple[list[Affiliation], NDArray[np.int64]]:
    """Returns the affiliations of the rows, each once, and int64 (n,): which one each row has, -1 for none."""
    if activity.affiliations is None:
        return [], np.full(len(activity), -1)
    numbers: dict[Affiliation, int] = {}
    affiliation_of = [numbers.setdefault(affiliation, len(numbers)) for affiliation in activity.affiliations]
    return list(numbers), np.array(affiliation_of, np.int64)


def _events(
    activity: Activity,
    positions: NDArray[np.int64],
    affiliation_of: NDArray[np.int64],
    rows_of: Sequence[NDArray[np.int64]],
    counts: Sequence[int],
) -> NDArray[np.void]:
    """Returns the events of a principal: the rows of each model version, and the ``counts`` of these indices.
    ``positions`` and affiliations of all rows."""
    rows = np.concatenate([np.empty(0, np.int64), *rows_of])
    events = np.empty(len(rows) + len(counts), _COLUMNS)
    of_rows = events[: len(rows)]
    of_rows["position"] = positions[rows]
    of_rows["time"] = activity.time[rows]
    of_rows["version"] = np.repeat(np.arange(len(rows_of)), [len(own_rows) for own_rows in rows_of])
    if activity.judged is not None:
        of_rows["version"][~activity.judged[rows]] = -1
    of_rows["flagged"] = activity.flagged[rows]
    of_rows["learning"] = False if activity.learning is None else activity.learning[rows]
    of_rows["queries"] = 1
    of_rows["score"] = np.nan if activity.score is None else activity.score[rows]
    of_rows["query_index"] = 0 if activity.index is None else activity.index[rows]
    of_rows["affiliation"] = affiliation_of[rows]
    of_rows["exposure"] = np.nan if activity.exposure is None else activity.exposure[rows]
    for row, at in enumerate(counts, start=len(rows)):
        counted = activity.counts[at]
        queries = counted.count.queries
        events[row] = (counted.at_row + at, counted.time, -1, False, counted.learning, queries, np.nan, 0, np.nan, -1)
    ordered: NDArray[np.void] = events[np.argsort(events["position"])]
    return ordered
