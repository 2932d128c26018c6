"""Alerts, decisions, commands and their kin: everything but queries that crosses Kafka."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ActionName = Literal["none", "slow", "refuse"]
Mode = Literal["observe", "enforce"]
Severity = Literal["low", "medium", "high"]
CommandKind = Literal["add", "delete", "clear"]

Epoch = tuple[int, int]
"""(fence, sequence) of the state record behind a decision; compared in that order, later wins."""


HIGH_SCORE = 1.5
"""From this multiple of the threshold on an alert is of high severity."""


def severity_of(score: float) -> Severity:
    """Of an alert at ``score``, where 1 is the threshold."""
    return "high" if score >= HIGH_SCORE else "medium"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One number that lets a person check a claim. ``threshold`` is None for context figures."""

    name: str
    value: float
    unit: str
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """Somebody looks like a thief. ``id`` is a function of model, principal, signal and episode alone.

    ``revision`` counts the records of one id from 1: the severity rose, and the newest counts. Its ``score``, time and
    ``query_index`` (from 0) are those of the rise, its ``evidence`` that of the verdict. ``calibrated``: whether the
    verdict rests on a profile of honest traffic; None where the signal knows none, and in records of earlier versions.
    """

    id: str
    occurred_at: float
    model: str
    model_version: str
    principal: str
    signal: str
    episode: int
    severity: Severity
    score: float
    threshold: float
    query_index: int
    evidence: tuple[Evidence, ...]
    configuration: str
    profile: str | None = None
    technique: str = "AML.T0024.002"
    suppressed_by: str | None = None
    revision: int = 1
    calibrated: bool | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """What serving does. ``queries_per_second`` belongs to ``slow`` alone."""

    name: ActionName
    queries_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a decision stands: ``origin`` is ``signal:NAME``, ``group:ID`` or ``operator:NAME``."""

    id: str
    origin: str
    expires_at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The whole standing decision about one principal of one model; the action ``none`` is a release."""

    id: str
    model: str
    principal: str
    action: Action
    mode: Mode
    epoch: Epoch
    issued_at: float
    expires_at: float
    causes: tuple[Cause, ...]
    policy_version: str


@dataclass(frozen=True, slots=True)
class Command:
    """An operator's, or later a group agent's, word to the partition owner.

    ``add`` needs ``action`` and ``duration_seconds``; ``delete`` removes the cause ``cause_id`` or, without
    one, all causes; ``clear`` forgets the principal's detection state and latch as well.
    """

    id: str
    kind: CommandKind
    issued_at: float
    issuer: str
    model: str
    principal: str
    reason: str
    action: Action | None = None
    mode: Mode | None = None
    duration_seconds: float | None = None
    cause_id: str | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """What was decided or commanded, by whom, kept by time. ``detail`` holds strings and numbers only."""

    id: str
    occurred_at: float
    kind: str
    model: str
    principal: str
    actor: str
    summary: str
    detail: dict[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """The latest suspicion of one principal; 1 is the threshold. ``signals`` holds raw statistics. ``queries``: those
    that the state behind the score took.

    ``answered``: queries to the model in all versions, as far as is remembered. They are those ``judged``, ``repeats``
    of earlier ones, and by reason those that were ``unjudged`` or ``dropped`` before they were logged. None in records
    of earlier versions. ``calibrated``: whether the last query was judged by a profile of honest traffic; None where
    it was not judged, and in records of earlier versions.
    """

    model: str
    model_version: str
    principal: str
    occurred_at: float
    queries: int
    score: float | None
    flagged: bool
    signals: dict[str, float]
    answered: int | None = None
    judged: int | None = None
    repeats: int | None = None
    unjudged: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    calibrated: bool | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused record or row: where it was, why, and (in the record value itself) what was refused of it.

    ``row``: the only bad one. ``rows``: which rows of the record the value holds, in order; empty where it holds the
    record as it came, cut where it was too large. ``size`` in bytes and ``digest`` (BLAKE2b, 16 bytes, hexadecimal) are
    of the whole record's value.
    """

    topic: str
    partition: int
    offset: int
    row: int | None
    reason: str
    message: str
    rows: tuple[int, ...] = ()
    size: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A signal's claim about one query: the row of the micro-batch at which a principal became a suspect.

    ``score`` is normalised (1 is the threshold); ``statistic`` and ``threshold`` are in the signal's own unit.
    ``profile``: hash of the profile by which it was judged, None where there was none.
    """

    row: int
    model: str
    model_version: str
    principal: str
    signal: str
    severity: Severity
    score: float
    statistic: float
    threshold: float
    query_index: int
    evidence: tuple[Evidence, ...]
    profile: str | None = None
