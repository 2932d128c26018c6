"""Alerts of accounts and groups, decisions, commands, audits, scores, reports of gates and dead letters as JSON.

Each has ``"schema": "weirguard.NAME/1"`` and its fields by name. Readers skip unknown fields, so later versions may add
fields. The same rules apply in both directions: every reader accepts what ``encode`` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeVar

from detector.contracts.actions import parameters_fault
from detector.contracts.codecs.limits import TEXT_CHARACTERS, check_schema, check_size, is_time
from detector.contracts.errors import InvalidRecord
from detector.contracts.findings import (
    GROUP_ORIGIN,
    MEMBERS_SHOWN,
    Action,
    Alert,
    Audit,
    Command,
    DeadLetter,
    Decision,
    Evidence,
    GateReport,
    GroupAlert,
    Score,
)
from detector.contracts.principals import EVERYONE, NAME_CHARACTERS, is_name, is_plain

if TYPE_CHECKING:
    import msgspec
else:
    from detector.contracts.lazy import msgspec

Record = Alert | GroupAlert | Decision | Command | Audit | Score | GateReport | DeadLetter
R = TypeVar("R", Alert, GroupAlert, Decision, Command, Audit, Score, GateReport, DeadLetter)

SCHEMAS: Final[dict[type[Record], str]] = {
    Alert: "weirguard.alert/1",
    GroupAlert: "weirguard.group-alert/1",
    Decision: "weirguard.decision/1",
    Command: "weirguard.command/1",
    Audit: "weirguard.audit/1",
    Score: "weirguard.score/1",
    GateReport: "weirguard.gate/1",
    DeadLetter: "weirguard.dead-letter/1",
}

KILL_SWITCH_KEY: Final = b'["*"]'
"""Key of the one decision record (model and principal ``*``, action ``none``) that switches enforcement off."""

HEARTBEAT_KEY: Final = b'["*","detector"]'
"""Key of the empty decision record by which the owner of a partition says every HEARTBEAT_SECONDS that it is at
work. To a gate of an earlier version it is the end of a decision that it does not have."""
HEARTBEAT_SECONDS: Final = 5.0

LETTER_HEADER: Final = "weirguard.dead-letter"
"""Header of a dead letter that holds its description, a ``DeadLetter`` as JSON."""

_EXCERPT = 200
"""Maximum number of characters of msgspec's message: it quotes the refused value in full."""


def decision_key(model: str, principal: str) -> bytes:
    """Returns the key of decisions and scores: the JSON array of both names, UTF-8, without spaces."""
    if (model, principal) == (EVERYONE, EVERYONE):
        return KILL_SWITCH_KEY
    return msgspec.json.encode([model, principal])


def encode(record: Record) -> bytes:
    """Returns ``record`` as a value. Raises InvalidRecord if readers would refuse it."""
    _CHECKS[type(record)](record)
    return b'{"schema":"%b",%b' % (SCHEMAS[type(record)].encode(), msgspec.json.encode(record)[1:])


def decode(kind: type[R], value: bytes | None) -> R:
    """Returns the record of class ``kind`` in ``value``. Raises only InvalidRecord.

    The schema is read first, so that a record of a later version is refused because of its version, not its shape.
    """
    data = check_size(value)
    try:
        check_schema(_decoders()[_Envelope](data).schema, SCHEMAS[kind])
        record: R = _decoders()[kind](data)
    except msgspec.ValidationError as error:
        raise InvalidRecord("structure", str(error)[:_EXCERPT]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRecord("syntax", str(error)[:_EXCERPT]) from None
    _CHECKS[type(record)](record)
    return record


@dataclass(slots=True)
class _Envelope:
    """The only field that is read before the record is validated."""

    schema: str | None = None


@cache
def _decoders() -> dict[type[Any], Callable[[bytes], Any]]:
    return {kind: msgspec.json.Decoder(kind).decode for kind in (*SCHEMAS, _Envelope)}


def _check(fits: Callable[[Any], bool], reason: str, fault: str, /, **values: Any) -> None:
    """Raises InvalidRecord with ``reason`` for the first of ``values`` that is not None and does not fit. ``fault``:
    what is wrong with it, ``{}`` standing for its value."""
    for what, value in values.items():
        if value is not None and not fits(value):
            raise InvalidRecord(reason, f"{what} {fault.format(value)}")


_check_names = partial(_check, is_name, "identity", f"must be 1 to {NAME_CHARACTERS} plain characters and not '*'")
_check_labels = partial(
    _check,
    lambda label: is_plain(label, NAME_CHARACTERS),
    "attribute",
    f"must be at most {NAME_CHARACTERS} plain characters",
)
_check_times = partial(_check, is_time, "time", "is {}; write seconds (not milliseconds) since 1970")
_check_finite = partial(_check, isfinite, "non-finite", "is {}; leave out what is not known")
_check_shares = partial(_check, lambda share: 0 <= share <= 1, "value", "is {}; it must be from 0 to 1")
_check_counts = partial(_check, lambda number: number >= 0, "value", "is {}; it must be at least 0")
_check_ranks = partial(_check, lambda number: number >= 1, "value", "is {}; it must be at least 1")


def _check_texts(**texts: str | None) -> None:
    for what, text in texts.items():
        if text is not None and len(text) > TEXT_CHARACTERS:
            raise InvalidRecord("too-large", f"{what} has {len(text)} characters; write at most {TEXT_CHARACTERS}")


def _check_alert(alert: Alert) -> None:
    _check_names(id=alert.id, model=alert.model, model_version=alert.model_version, principal=alert.principal)
    _check_names(signal=alert.signal, configuration=alert.configuration)
    _check_labels(profile=alert.profile, technique=alert.technique)
    _check_labels(suppressed_by=alert.suppressed_by, released_by=alert.released_by)
    _check_times(occurred_at=alert.occurred_at)
    _check_counts(episode=alert.episode, query_index=alert.query_index)
    _check_ranks(revision=alert.revision)
    _check_finite(score=alert.score, threshold=alert.threshold)
    _check_evidence(alert.evidence)


def _check_evidence(evidence: Iterable[Evidence]) -> None:
    for item in evidence:
        _check_names(evidence_name=item.name)
        _check_labels(evidence_unit=item.unit)
        _check_finite(**{"evidence value": item.value, "evidence threshold": item.threshold})


def _check_group(group: GroupAlert) -> None:
    _check_names(id=group.id, model=group.model, model_version=group.model_version)
    _check_names(configuration=group.configuration, profile=group.profile)
    _check_labels(technique=group.technique, dismissed_by=group.dismissed_by)
    _check_times(occurred_at=group.occurred_at)
    _check_ranks(revision=group.revision)
    _check(len(group.members).__le__, "value", f"is {{}}; it must be at least {len(group.members)}", size=group.size)
    _check_finite(score=group.score)
    _check_shares(chance=group.chance)
    if len(group.members) > MEMBERS_SHOWN:
        raise InvalidRecord("too-large", f"a group names {len(group.members)} members; write {MEMBERS_SHOWN} at most")
    for member in group.members:
        _check_names(member=member.principal)
        _check_shares(rarity=member.rarity)
        _check_ranks(queries=member.queries)
    _check_evidence(group.evidence)


def _check_decision(decision: Decision) -> None:
    _check_names(id=decision.id, policy_version=decision.policy_version)
    if decision.model != EVERYONE or decision.principal != EVERYONE:
        _check_names(model=decision.model, principal=decision.principal)
    elif decision.action.name != "none" or decision.action.graded is not None:
        raise InvalidRecord("action", "a decision about everyone can only be 'none', which switches enforcement off")
    _check_action(decision.action)
    _check_counts(fence=decision.epoch[0], sequence=decision.epoch[1])
    _check_times(issued_at=decision.issued_at, expires_at=decision.expires_at)
    for cause in decision.causes:
        _check_names(cause_id=cause.id, cause_origin=cause.origin)
        _check_times(cause_expires_at=cause.expires_at)
        _check_texts(cause_reason=cause.reason)


def _check_action(action: Action) -> None:
    rate = action.queries_per_second
    if (action.name == "slow") != (rate is not None):
        raise InvalidRecord("action", "queries_per_second belongs to the action 'slow' and to no other")
    if rate is not None and not (rate > 0 and isfinite(rate)):
        raise InvalidRecord("action", f"queries_per_second is {rate}; it must be above 0")
    if action.graded is not None and (fault := parameters_fault(action.graded)):
        raise InvalidRecord("action", f"graded: {fault}")


def _check_command(command: Command) -> None:
    _check_names(id=command.id, issuer=command.issuer, principal=command.principal)
    if command.kind not in ("allow", "disallow") or command.model != EVERYONE:
        _check_names(model=command.model)
    _check_labels(cause_id=command.cause_id)
    _check_texts(reason=command.reason)
    _check_times(issued_at=command.issued_at)
    _check_imposed(command)
    _check_exemption(command)
    _check_spending(command)
    if command.kind in ("join", "leave"):
        _check_membership(command)
    elif command.kind == "dismiss":
        _check_names(model_version=command.model_version or "")
        _check_bare(command)
        if (command.group, command.group_size) != (None, None):
            raise InvalidRecord("action", "group and group_size belong to join and leave")
    elif (command.group, command.group_size, command.model_version) != (None, None, None):
        raise InvalidRecord("action", "group, group_size and model_version belong to join, leave and dismiss")
    if command.family is not None and command.kind != "join":
        raise InvalidRecord("action", "family belongs to join")


def _check_imposed(command: Command) -> None:
    if command.action is not None:
        _check_action(command.action)
    if command.kind == "add" and (command.action is None or command.duration_seconds is None):
        raise InvalidRecord("action", "a command to add needs action and duration_seconds")
    seconds = command.duration_seconds
    if seconds is not None and not (seconds > 0 and isfinite(seconds)):
        raise InvalidRecord("action", f"duration_seconds is {seconds}; it must be above 0")


def _check_exemption(command: Command) -> None:
    """Checks what commands about the allowlist have, and no others."""
    if command.kind == "allow":
        _check_names(owner=command.owner or "")
        if command.duration_seconds is None:
            raise InvalidRecord("action", "a command to allow needs duration_seconds")
    elif command.owner is not None:
        raise InvalidRecord("action", "owner belongs to allow")
    if command.kind in ("allow", "disallow") and (command.action, command.mode, command.cause_id) != (None,) * 3:
        raise InvalidRecord("action", f"{command.kind} takes no action, mode or cause_id")
    if command.kind not in ("allow", "disallow") and command.scope is not None:
        raise InvalidRecord("action", "scope belongs to allow and disallow")


def _check_membership(command: Command) -> None:
    """Checks a command about a member of a group."""
    issuer = GROUP_ORIGIN + (command.group or "")
    _check_names(group=command.group or "", group_as_issuer=issuer)
    if command.issuer != issuer:
        raise InvalidRecord("identity", f"the issuer of {command.kind} is its group, {GROUP_ORIGIN}ID")
    if command.model_version is not None:
        _check_names(model_version=command.model_version)
    _check_ranks(group_size=command.group_size)
    _check_bare(command)


def _check_spending(command: Command) -> None:
    """Checks what a command about a shared budget has, and no other."""
    if (command.kind == "spend") != (command.spent is not None):
        raise InvalidRecord("action", "spent belongs to spend, and to no other command")
    if command.spent is not None:
        _check_bare(command)
        _check_counts(partition=command.spent.partition, in_window=command.spent.in_window, life=command.spent.life)
        _check_finite(in_window=command.spent.in_window, life=command.spent.life)
        _check_times(window=command.spent.window)


def _check_bare(command: Command) -> None:
    if (command.action, command.mode, command.duration_seconds, command.cause_id) != (None,) * 4:
        raise InvalidRecord("action", f"{command.kind} takes no action, mode, duration_seconds or cause_id")


def _check_audit(audit: Audit) -> None:
    _check_names(id=audit.id, kind=audit.kind, principal=audit.principal, actor=audit.actor)
    if audit.model != EVERYONE:
        _check_names(model=audit.model)
    _check_texts(summary=audit.summary)
    _check_times(occurred_at=audit.occurred_at)
    _check_texts(**{key: value for key, value in audit.detail.items() if isinstance(value, str)})
    _check_finite(**{key: value for key, value in audit.detail.items() if not isinstance(value, str)})


def _check_score(score: Score) -> None:
    _check_names(model=score.model, model_version=score.model_version, principal=score.principal)
    _check_times(occurred_at=score.occurred_at)
    _check_counts(queries=score.queries, answered=score.answered, judged=score.judged, repeats=score.repeats)
    _check_counts(unjudged=min(score.unjudged.values(), default=0), dropped=min(score.dropped.values(), default=0))
    _check_finite(score=score.score)
    _check_finite(**score.signals)


def _check_gate_report(report: GateReport) -> None:
    _check_names(gate=report.gate, version=report.version)
    _check_times(started_at=report.started_at, occurred_at=report.occurred_at)
    seconds = {"report_seconds": report.report_seconds, "max_stale_seconds": report.max_stale_seconds}
    _check_finite(**seconds, stale_seconds=report.stale_seconds)
    if min(seconds.values()) <= 0:
        raise InvalidRecord("value", "report_seconds and max_stale_seconds must be above 0")
    _check_counts(known=report.known)
    for totals in (report.counts, report.responses):
        for name, total in totals.items():
            _check_names(outcome=name)
            _check_counts(total=total)
    _check_names(**{f"model {at}": name for at, name in enumerate(report.when_stale) if name != EVERYONE})


def _check_dead_letter(letter: DeadLetter) -> None:
    _check_names(topic=letter.topic, reason=letter.reason)
    _check_counts(partition=letter.partition, offset=letter.offset, row=letter.row, size=letter.size)
    _check_counts(**{f"rows[{at}]": row for at, row in enumerate(letter.rows)})
    _check_labels(digest=letter.digest)


_CHECKS: Final[dict[type[Record], Callable[[Any], None]]] = {
    Alert: _check_alert,
    GroupAlert: _check_group,
    Decision: _check_decision,
    Command: _check_command,
    Audit: _check_audit,
    Score: _check_score,
    GateReport: _check_gate_report,
    DeadLetter: _check_dead_letter,
}
