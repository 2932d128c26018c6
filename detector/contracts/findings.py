"""Alerts, decisions, commands and the other records that cross Kafka, except queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ActionName = Literal["none", "slow", "refuse"]
Mode = Literal["observe", "enforce"]
Severity = Literal["low", "medium", "high"]
Family = Literal["content", "structure", "outputs", "protocol"]
"""The families of evidence. Content: inputs unlike honest ones. Outputs: answers that honest queries seldom get.
Structure: how queries follow from one another. Protocol: how they are put."""
CommandKind = Literal["add", "delete", "clear", "join", "leave", "dismiss", "allow", "disallow", "spend"]
ExemptionScope = Literal["principal", "organisation", "network"]
BudgetHolder = Literal["organisation", "group", "tier"]
"""Who shares an exposure budget: the accounts of an organisation, of a group, or all that the budget covers."""
WhenStale = Literal["allow", "refuse"]
"""What a gate does that does not know the current decisions."""

Epoch = tuple[int, int]
"""(fence, sequence) of the state record behind a decision; compared in that order, and the later one wins."""


SIGNAL_ORIGIN, GROUP_ORIGIN, OPERATOR_ORIGIN = "signal:", "group:", "operator:"
"""Prefixes of the origins of causes; ``group:`` also of the issuer of a group's commands."""

MEMBERS_SHOWN = 500
"""The most members that one record of a group names: of the longest names, these fit into a message."""

HIGH_SCORE = 1.5
"""The severity is high from this multiple of the threshold on."""


def severity_of(score: float) -> Severity:
    """Returns the severity of an alert at ``score``, where 1 is the threshold."""
    return "high" if score >= HIGH_SCORE else "medium"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One value that an alert rests on, for people to check. ``threshold`` is None for a value without one."""

    name: str
    value: float
    unit: str
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """A principal was flagged. ``id`` is a function of model, principal, signal and episode alone.

    ``revision`` counts the records of one id from 1: each later one means that the severity rose, or that
    ``released_by`` released the decision, and replaces the one before. Its ``score``, time and ``query_index`` (from 0)
    are those of the rise, its ``evidence`` that of the verdict; at a release only the time is new. ``calibrated``:
    whether the verdict rests on a profile of honest traffic; None for a signal that uses no profile, and in records of
    earlier versions. ``family`` of the evidence: content only if nothing else counts; None in records of earlier
    versions.
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
    family: Family | None = None
    released_by: str | None = None


@dataclass(frozen=True, slots=True)
class GroupMember:
    """An account of a group. ``rarity``: the share of honest accounts that go as far within as many queries."""

    principal: str
    rarity: float
    queries: int


@dataclass(frozen=True, slots=True)
class GroupAlert:
    """Accounts of one model version that together go farther than honest accounts do, as of one revision.

    ``id`` stays while members come and go; ``revision`` counts the records of one id from 1. ``size``: how many members
    there are; ``members``: the rarest of them, up to ``MEMBERS_SHOWN``. ``chance``: the probability of as rare a
    cluster among honest accounts; ``score`` is 1 at the verdict. ``evidence``: what the members show most, by mean
    contribution to D. ``dismissed_by``: the operator who released the group, None while it is under a verdict.
    ``family`` of the evidence: content only if nothing else counts; None in records of earlier versions.
    """

    id: str
    revision: int
    occurred_at: float
    model: str
    model_version: str
    severity: Severity
    score: float
    chance: float
    size: int
    members: tuple[GroupMember, ...]
    evidence: tuple[Evidence, ...]
    configuration: str
    profile: str
    technique: str = "AML.T0024.002"
    dismissed_by: str | None = None
    family: Family | None = None


@dataclass(frozen=True, slots=True)
class Graded:
    """An action of ``detector.contracts.actions`` that the first gates did not know, with its parameters."""

    name: str
    parameters: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Action:
    """What a gate does: ``graded`` if the gate knows it, else ``name``, which every gate knows.

    Only ``slow`` has ``queries_per_second``.
    """

    name: ActionName
    queries_per_second: float | None = None
    graded: Graded | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason for a decision: ``origin`` is ``signal:NAME``, ``group:ID`` or ``operator:NAME``."""

    id: str
    origin: str
    expires_at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The complete current decision about one principal of one model; the action ``none`` is a release."""

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
class Spending:
    """What the accounts of one ``partition`` have spent of a budget that they share with those of others, in effective
    queries: in the window that began at ``window``, seconds UTC, and for ``life``."""

    holder: BudgetHolder
    partition: int
    window: float
    in_window: float
    life: float


@dataclass(frozen=True, slots=True)
class Command:
    """An order of an operator or of a group's owner to the partition owner.

    ``add`` needs ``action`` and ``duration_seconds``; ``delete`` removes the cause with the id or origin ``cause_id``
    or, without one, all causes; ``clear`` also drops the principal's detection state and latches.

    ``join`` and ``leave``: the principal becomes, or is no longer, a member of the group ``group`` of ``group_size``
    accounts, found on ``model_version`` by evidence of ``family``, content only if nothing else counts. Their issuer is
    ``group:ID``. Of the commands about one group that with the latest ``issued_at`` holds, whatever the order in which
    they arrive; at equal times, a ``leave``.

    ``dismiss``: an operator releases the group ``group`` of ``model_version``; it goes to the partition that watches
    that version, and its ``principal`` is the id of the group.

    ``allow``: the principal is exempt from automatic decisions for ``duration_seconds``, on the responsibility of
    ``owner``; ``disallow`` ends the exemption. Their ``model`` may be ``*``, for all models. With the ``scope``
    ``organisation`` or ``network``, ``principal`` names one of these, and the command goes to all partitions.

    ``spend``: the owner of a partition tells all others what was ``spent`` there of a shared budget, whose holder is
    the ``principal``: an organisation, a group, or the name of a tier's budget. Of those of one holder and partition
    that with the largest ``life`` holds.
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
    group: str | None = None
    group_size: int | None = None
    model_version: str | None = None
    owner: str | None = None
    scope: ExemptionScope | None = None
    family: Family | None = None
    spent: Spending | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """A record of a decision or command and its actor. ``detail`` holds strings and numbers only."""

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
    """The latest score of one principal; 1 is the threshold. ``signals``: statistics by signal. ``queries``: those that
    the state behind the score has judged.

    ``answered``: queries to the model in all versions that the state still counts. It is the sum of those ``judged``,
    ``repeats``, and by reason those ``unjudged`` and ``dropped``. None in records of earlier versions. ``calibrated``:
    whether the last query was judged with a profile of honest traffic; None if it was not judged, and in records of
    earlier versions.
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
class GateReport:
    """What one gate, that is one process, did since ``started_at``; the next report comes after ``report_seconds``.

    ``running`` is False in the last report. ``ready``: it has read the decisions to their end once. ``stale_seconds``:
    since Kafka answered and the detector was at work, None if never; beyond ``max_stale_seconds``, ``when_stale``
    applies: by model, ``*`` for all others. ``known``: decisions that it holds. ``counts``: requests by outcome, and
    the gate's other counters. ``responses``: queries that got another answer than the model's, by response.
    """

    gate: str
    version: str
    started_at: float
    occurred_at: float
    report_seconds: float
    running: bool
    ready: bool
    stale_seconds: float | None
    max_stale_seconds: float
    when_stale: dict[str, WhenStale]
    known: int
    counts: dict[str, int]
    responses: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused record or row: its place and the reason. The record's value holds the refused bytes.

    ``row``: the bad row, if there is only one. ``rows``: the rows of the record that the value holds, in order; empty
    if it holds the record as it came, cut if too large. ``size`` in bytes and ``digest`` (BLAKE2b, 16 bytes,
    hexadecimal) are those of the whole record's value.
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
    """A signal flagged a principal at the row ``row`` of the micro-batch.

    ``score`` is normalised (1 is the threshold); ``statistic`` and ``threshold`` are in the signal's own unit.
    ``profile``: hash of the profile that the query was judged with, None without one. ``family`` of the evidence.
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
    family: Family = "structure"
