"""All that an explanation shows about a principal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detector.cli.explanation.weighing import Weighing, telling, weigh
from detector.contracts.findings import Alert, Audit
from detector.core.configuration import EngineConfig
from detector.core.profile.profile import Profile
from detector.replay.principal import PrincipalReplay

_DECIDED = ("decision", "release")


@dataclass(frozen=True, slots=True)
class Moment:
    """An event on record at query ``row``, as one word and as a sentence; ``time`` in seconds UTC. ``accuses``: whether
    it is evidence against the principal."""

    row: int
    time: float
    word: str
    sentence: str
    accuses: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """``source``: where the queries come from, in words. ``then``: the contributions at ``then_row``, the first verdict
    or, without one, the query with the largest score. ``now``: the contributions at the last query. Both are None
    without a profile. ``telling``: the measures that get a plot. ``notes``: sentences on possible differences from
    the running service."""

    course: PrincipalReplay
    config: EngineConfig
    source: str
    then_row: int
    then: Weighing | None
    now: Weighing | None
    telling: tuple[str, ...]
    moments: tuple[Moment, ...]
    stands: str | None
    notes: tuple[str, ...]

    @property
    def has_profile(self) -> bool:
        """Whether there is one for the model version of the query at ``then_row``."""
        return self.then is not None

    @property
    def version(self) -> str:
        """The model version of the query at ``then_row``."""
        return self.course.versions[self.then_row]


def account_of(
    course: PrincipalReplay,
    config: EngineConfig,
    source: str,
    *,
    records: Sequence[tuple[int, Alert | Audit]] | None = None,
    notes: Iterable[str] = (),
) -> Account:
    """Returns the explanation of ``course``. ``records``: the service's alerts and audits with their rows; by default,
    those of the replay."""
    told = course.records if records is None else records
    then_row = _then(course)
    last = len(course) - 1
    then, now = (weigh(course, row, _profile(config, course, row)) for row in (then_row, last))
    profile = _profile(config, course, then_row)
    decided = [record for _, record in told if isinstance(record, Audit) and record.kind in _DECIDED]
    return Account(
        course=course,
        config=config,
        source=source,
        then_row=then_row,
        then=then,
        now=now,
        telling=() if then is None or profile is None else tuple(telling(course, profile)),
        moments=tuple(_moments(told)),
        stands=decided[-1].summary if decided else None,
        notes=tuple(notes),
    )


def _then(course: PrincipalReplay) -> int:
    if course.verdict is not None:
        return course.verdict
    return len(course) - 1 if np.isnan(course.score).all() else int(np.nanargmax(course.score))


def _profile(config: EngineConfig, course: PrincipalReplay, row: int) -> Profile | None:
    """Returns the profile that judges the query ``row``, or None."""
    key = course.model, course.versions[row]
    return next((own for own in config.judging if (own.model, own.model_version) == key), None)


def _moments(records: Iterable[tuple[int, Alert | Audit]]) -> Iterator[Moment]:
    """Yields ``records`` without decisions that repeat the previous one."""
    said = ""
    for row, record in records:
        if isinstance(record, Alert):
            yield Moment(row, record.occurred_at, "alert", _alert_sentence(record))
            continue
        if record.kind in _DECIDED:
            if record.summary == said:
                continue
            said = record.summary
        yield _audit_moment(row, record)


def _alert_sentence(alert: Alert) -> str:
    withheld = "" if alert.suppressed_by is None else f" (withheld: {alert.suppressed_by})"
    severity = f"severity {alert.severity}" if alert.revision == 1 else f"severity rises to {alert.severity}"
    return f"alert: {alert.signal}, {severity}, {alert.score:.2f} times the threshold{withheld}"


def _audit_moment(row: int, audit: Audit) -> Moment:
    if audit.kind == "decision":
        return Moment(row, audit.occurred_at, audit.summary.partition(" ")[0], f"decision: {audit.summary}")
    word = {"release": "released", "queries_missing": "gap"}.get(audit.kind, audit.kind.replace("_", " "))
    said = audit.summary if audit.actor == "policy" else f"{audit.summary} ({audit.actor})"
    return Moment(row, audit.occurred_at, word, f"{word}: {said}", accuses=False)
