"""An explanation: the replay of one principal, what contributes to their D, and the events on record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Alert, Audit
from detector.core.configuration import EngineConfig
from detector.core.measures import MEASURES
from detector.core.profile import Profile
from detector.core.reference.standards import unexplained
from detector.core.signals.suspicion import CHANGE
from detector.replay.principal import PrincipalReplay

Floats = NDArray[np.float64]

_PREFIX = "suspicion."
_MAIN_CONTRIBUTION = 0.5
"""A measure is a main one if its contribution ever reaches this."""
_FEWEST_MAIN = 3
_DECISIONS = ("decision", "release")

_DESCRIPTIONS = {
    "prada": "distances between the account's own queries, not distributed as honest ones are (PRADA)",
    "margin": "queries close to the decision boundary",
    CHANGE: "queries unlike the account's earlier ones",
    "extreme_content": "single queries unlike any honest one, among ordinary ones",
    "extreme_interpolation": "single queries between two earlier ones, among ordinary ones",
    "extreme_steps": "many features changed by one magnitude now and then, among ordinary queries",
} | {name: measure.about for name, measure in MEASURES.items()}


@dataclass(frozen=True, slots=True)
class Contribution:
    """What the measure ``name`` adds to D (``added``), with the account's ``deviation`` in it, that of the ``closest``
    honest account and the ``largest`` of any honest account, all in standard deviations of honest accounts.
    ``closest`` and ``largest`` are infinite if the calibration lacks the measure."""

    name: str
    deviation: float
    closest: float
    largest: float
    added: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """D after query ``row``, its ``threshold``, and the ``contributions``, largest first. The closest honest account
    explains the share ``explained`` of the deviation."""

    row: int
    d: float
    threshold: float
    contributions: tuple[Contribution, ...]
    explained: float

    def of(self, name: str) -> Contribution:
        """Returns the contribution of the measure ``name``."""
        return next(part for part in self.contributions if part.name == name)


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """An event on record at query ``row``, as one word and as a sentence; ``time`` in seconds UTC. ``accuses``: whether
    it is evidence against the principal."""

    row: int
    time: float
    word: str
    sentence: str
    accuses: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """``source``: where the queries come from, in words. ``row``: the first verdict or, without one, the query with the
    largest score; ``at_verdict``: the contributions to D there, and ``at_end`` those at the last query, both None
    without a profile. ``main_measures``: those with a large contribution at some query, largest first; they get a plot.
    ``last_decision``: on record, in words. ``notes``: sentences on possible differences from the running service."""

    replay: PrincipalReplay
    config: EngineConfig
    source: str
    row: int
    at_verdict: Breakdown | None
    at_end: Breakdown | None
    main_measures: tuple[str, ...]
    events: tuple[TimelineEvent, ...]
    last_decision: str | None
    notes: tuple[str, ...]

    @property
    def has_profile(self) -> bool:
        """Whether a profile exists for the model version of the query at ``row``."""
        return self.at_verdict is not None


def explanation_of(
    replay: PrincipalReplay,
    config: EngineConfig,
    source: str,
    *,
    records: Sequence[tuple[int, Alert | Audit]] | None = None,
    notes: Iterable[str] = (),
) -> Explanation:
    """Returns the explanation of ``replay``. ``records``: the service's alerts and audits with their rows; by default,
    those of the replay."""
    records = replay.records if records is None else records
    row = replay.verdict
    if row is None:
        row = len(replay) - 1 if np.isnan(replay.score).all() else int(np.nanargmax(replay.score))
    profile = _profile_at(row, replay, config)
    at_verdict = break_down(replay, row, profile)
    decisions = [record.summary for _, record in records if isinstance(record, Audit) and record.kind in _DECISIONS]
    return Explanation(
        replay=replay,
        config=config,
        source=source,
        row=row,
        at_verdict=at_verdict,
        at_end=break_down(replay, len(replay) - 1, _profile_at(len(replay) - 1, replay, config)),
        main_measures=() if at_verdict is None or profile is None else tuple(_main_measures(replay, profile)),
        events=tuple(_events(records)),
        last_decision=decisions[-1] if decisions else None,
        notes=tuple(notes),
    )


def describe(name: str) -> str:
    """Returns what the measure or signal ``name`` describes, in words."""
    return _DESCRIPTIONS.get(name, name)


def measure_names(replay: PrincipalReplay) -> list[str]:
    """Returns the names of the measures that suspicion uses."""
    return [name.removeprefix(_PREFIX) for name in replay.signals if name.startswith(_PREFIX)]


def deviations(replay: PrincipalReplay, name: str) -> Floats:
    """Returns float64 (n,): the deviation in the measure ``name`` after each query."""
    return replay.signals[f"{_PREFIX}{name}"]


def break_down(replay: PrincipalReplay, row: int, profile: Profile | None) -> Breakdown | None:
    """Returns the contributions at ``row``, or None without a profile or before suspicion has a value."""
    d = float(replay.signals["suspicion"][row])
    if profile is None or np.isnan(d):
        return None
    names = measure_names(replay)
    standards = profile.standards.aligned(names)
    scores = np.array([[deviations(replay, name)[row] for name in names]])
    added, closest = standards.contributions(scores)
    columns = (scores[0], closest[0], standards.exemplars.max(axis=0), added[0])
    parts = [Contribution(name, *values) for name, *values in zip(names, *(c.tolist() for c in columns), strict=True)]
    from_average = float(unexplained(scores, np.zeros((1, len(names))))[0][0])
    explained = max(1 - d / from_average, 0.0) if from_average > 0 else 0.0
    ordered = sorted(parts, key=lambda part: (-part.added, -part.deviation))
    return Breakdown(row, d, standards.threshold, tuple(ordered), explained)


def _main_measures(replay: PrincipalReplay, profile: Profile) -> list[str]:
    """Returns the measures with a large contribution to D under ``profile`` at some query, at least three, largest
    first."""
    names = measure_names(replay)
    judged = np.array([version == profile.model_version for version in replay.versions])
    rows = np.flatnonzero(~np.isnan(replay.signals["suspicion"]) & judged)
    scores = np.stack([deviations(replay, name)[rows] for name in names], axis=1)
    largest = profile.standards.aligned(names).contributions(scores)[0].max(axis=0)
    order = np.argsort(-largest, kind="stable")
    return [names[at] for at in order[: max(int((largest >= _MAIN_CONTRIBUTION).sum()), _FEWEST_MAIN)]]


def _profile_at(row: int, replay: PrincipalReplay, config: EngineConfig) -> Profile | None:
    """Returns the profile that judges the query ``row``, or None."""
    key = replay.model, replay.versions[row]
    return next((profile for profile in config.judging if (profile.model, profile.model_version) == key), None)


def _events(records: Iterable[tuple[int, Alert | Audit]]) -> Iterator[TimelineEvent]:
    """Yields ``records`` without decisions that repeat the previous one."""
    previous = ""
    for row, record in records:
        if isinstance(record, Alert):
            accuses = record.released_by is None
            yield TimelineEvent(
                row, record.occurred_at, "alert" if accuses else "over", _alert_sentence(record), accuses
            )
            continue
        if record.kind in _DECISIONS:
            if record.summary == previous:
                continue
            previous = record.summary
        yield _audit_event(row, record)


def _alert_sentence(alert: Alert) -> str:
    if alert.released_by is not None:
        return f"alert: {alert.signal} is over, released by {alert.released_by}"
    withheld = "" if alert.suppressed_by is None else f" (withheld: {alert.suppressed_by})"
    severity = f"severity {alert.severity}" if alert.revision == 1 else f"severity rises to {alert.severity}"
    return f"alert: {alert.signal}, {severity}, {alert.score:.2f} times the threshold{withheld}"


def _audit_event(row: int, audit: Audit) -> TimelineEvent:
    if audit.kind == "decision":
        return TimelineEvent(row, audit.occurred_at, audit.summary.partition(" ")[0], f"decision: {audit.summary}")
    word = {"release": "released", "queries_missing": "gap"}.get(audit.kind, audit.kind.replace("_", " "))
    summary = audit.summary if audit.actor == "policy" else f"{audit.summary} ({audit.actor})"
    return TimelineEvent(row, audit.occurred_at, word, f"{word}: {summary}", accuses=False)
