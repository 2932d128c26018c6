"""The records that the policy publishes: ids, revisions of alerts, and audits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from detector.contracts.actions import describe_action, is_release, name_of, rate_of
from detector.contracts.codecs.limits import TEXT_CHARACTERS
from detector.contracts.findings import Alert, Audit, Command, Decision, Evidence, Family, Finding, severity_of
from detector.policy.accounting import UNJUDGED
from detector.policy.activity import Counted, Key
from detector.policy.allowlist import Exemption
from detector.policy.budgets import BUDGET


def content_id(*parts: object, size: int = 16) -> str:
    """Returns BLAKE2b over ``parts`` (strings, numbers, lists of them) as JSON: ``2 * size`` hexadecimal digits."""
    text = json.dumps(parts, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


COUNTED = (UNJUDGED, BUDGET)
"""The signals that count queries, whatever the engine's verdict."""

UNCALIBRATED = "uncalibrated"
"""The reason given with a cause whose verdict rests on no profile."""
REVIEW = "needs review"
"""The reason given with a cause whose rule asks for a reviewer."""


def first_alert(finding: Finding, episode: int, now: float, configuration: str, suppressed_by: str | None) -> Alert:
    """Returns revision 1 of the alert on ``finding``, at policy time ``now``, seconds."""
    return Alert(
        id=content_id("alert", finding.model, finding.principal, finding.signal, episode),
        occurred_at=now,
        model=finding.model,
        model_version=finding.model_version,
        principal=finding.principal,
        signal=finding.signal,
        episode=episode,
        severity=finding.severity,
        score=finding.score,
        threshold=finding.threshold,
        query_index=finding.query_index,
        evidence=_floats(finding.evidence),
        configuration=configuration,
        profile=finding.profile,
        suppressed_by=suppressed_by,
        calibrated=None if finding.signal in COUNTED else finding.profile is not None,
        family=finding.family,
    )


def _floats(evidence: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    """Makes all values floats: an int would be encoded differently after a recovery, and change a repeated alert."""
    return tuple(
        Evidence(item.name, float(item.value), item.unit, None if item.threshold is None else float(item.threshold))
        for item in evidence
    )


def risen(
    alert: Alert, now: float, score: float, query_index: int, suppressed_by: str | None, evidence: tuple[Evidence, ...]
) -> Alert:
    """Returns the next revision of ``alert``: the query ``query_index`` raised its severity."""
    return replace(
        alert,
        occurred_at=now,
        severity=severity_of(score),
        score=score,
        query_index=query_index,
        evidence=_floats(evidence),
        suppressed_by=suppressed_by,
        revision=alert.revision + 1,
        released_by=None,
    )


def released(alert: Alert, now: float, by: str) -> Alert:
    """Returns the next revision of ``alert``: its decision was released."""
    return replace(alert, occurred_at=now, revision=alert.revision + 1, released_by=by)


def shortened(text: str) -> str:
    """Returns ``text``, cut to the length that a record may hold."""
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 3] + "..."


def decision_audit(decision: Decision) -> Audit:
    """Records that ``decision`` was published."""
    release, name = is_release(decision.action), name_of(decision.action)
    summary = f"{describe_action(decision.action)} ({decision.mode}) for "
    summary += ", ".join(cause.origin for cause in decision.causes)
    detail: dict[str, str | float] = {}
    if decision.action.graded is not None:
        detail |= {**decision.action.graded.parameters, "fallback": decision.action.name}
    detail |= {
        "decision": decision.id,
        "action": name,
        "mode": decision.mode,
        "expires_at": decision.expires_at,
        "causes": shortened(", ".join(cause.origin for cause in decision.causes)),
        "policy_version": decision.policy_version,
    }
    if (rate := rate_of(decision.action)) is not None:
        detail["queries_per_second"] = rate
    kind, summary = ("release", "released") if release else ("decision", shortened(summary))
    key, audit_id = (decision.model, decision.principal), content_id("audit", decision.id)
    return Audit(audit_id, decision.issued_at, kind, *key, "policy", summary, detail)


def causes_of(audit: Audit) -> tuple[str, ...]:
    """Returns the origins of the causes of the decision that ``audit`` records."""
    causes = audit.detail.get("causes")
    return tuple(causes.split(", ")) if isinstance(causes, str) and causes else ()


def withheld_audit(key: Key, signal: str, episode: int, exemption: Exemption, now: float) -> Audit:
    """Records that ``signal`` gives no decision, because the principal is exempt."""
    audit_id, summary = content_id("withheld", *key, signal, episode), f"no decision for {signal}: {exemption}"
    detail: dict[str, str | float] = {"signal": signal, "owner": exemption.owner, "until": exemption.expires_at}
    return Audit(audit_id, now, "decision_withheld", *key, "policy", summary, detail)


def family_audit(key: Key, signal: str, episode: int, family: Family, now: float) -> Audit:
    """Records that evidence of ``family`` has joined that of content."""
    audit_id = content_id("family", *key, signal, episode)
    summary = f"{signal}: evidence of {family} has joined that of content"
    return Audit(audit_id, now, "evidence", *key, "policy", summary, {"signal": signal, "family": family})


def missing_audit(counted: Counted) -> Audit:
    """Records that a logger dropped queries, which therefore count in no verdict."""
    count = counted.count
    return Audit(
        id=content_id("missing", count.model, count.principal, count.queries, count.occurred_at, counted.time),
        occurred_at=counted.time,
        kind="queries_missing",
        model=count.model,
        principal=count.principal,
        actor="logger",
        summary=f"{count.queries} queries were dropped before they were logged, and not judged",
        detail={"queries": count.queries, "counted_at": count.occurred_at},
    )


def _particulars(command: Command, now: float) -> dict[str, str | float]:
    """Returns the parts of ``command`` about a group, and about an exemption."""
    particulars: dict[str, str | float | None] = {
        "group": command.group,
        "group_size": command.group_size,
        "model_version": command.model_version,
        "family": command.family,
    }
    if command.kind in ("allow", "disallow"):
        particulars["scope"] = command.scope
    if command.kind == "allow":
        particulars |= {"owner": command.owner, "until": now + (command.duration_seconds or 0.0)}
    return {name: value for name, value in particulars.items() if value is not None}


def command_audit(command: Command, now: float, summary: str, refused: bool) -> Audit:
    """Records the result of ``command``."""
    return Audit(
        id=content_id("command", command.model, command.principal, command.id),
        occurred_at=now,
        kind="command_refused" if refused else "command",
        model=command.model,
        principal=command.principal,
        actor=command.issuer,
        summary=summary,
        detail={"command": command.id, "kind": command.kind, "reason": command.reason, **_particulars(command, now)},
    )
