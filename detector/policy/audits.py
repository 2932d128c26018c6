"""Audit records of the ledger."""

from __future__ import annotations

from detector.contracts.codecs.limits import TEXT_CHARACTERS
from detector.contracts.findings import Audit, Command, Decision
from detector.policy.activity import Counted, Key
from detector.policy.allowlist import Exemption
from detector.policy.identity import content_id


def shortened(text: str) -> str:
    """``text``, cut to the length that a record may hold."""
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 3] + "..."


def decision_audit(decision: Decision) -> Audit:
    """Records that ``decision`` was published."""
    release = decision.action.name == "none"
    origins = ", ".join(cause.origin for cause in decision.causes)
    detail: dict[str, str | float] = {
        "decision": decision.id,
        "action": decision.action.name,
        "mode": decision.mode,
        "expires_at": decision.expires_at,
        "policy_version": decision.policy_version,
    }
    if decision.action.queries_per_second is not None:
        detail["queries_per_second"] = decision.action.queries_per_second
    return Audit(
        id=content_id("audit", decision.id),
        occurred_at=decision.issued_at,
        kind="release" if release else "decision",
        model=decision.model,
        principal=decision.principal,
        actor="policy",
        summary="released" if release else shortened(f"{decision.action.name} ({decision.mode}) for {origins}"),
        detail=detail,
    )


def withheld_audit(key: Key, signal: str, episode: int, exemption: Exemption, now: float) -> Audit:
    """Records that ``signal`` gives no decision, because the principal is exempt."""
    return Audit(
        id=content_id("withheld", *key, signal, episode),
        occurred_at=now,
        kind="decision_withheld",
        model=key[0],
        principal=key[1],
        actor="policy",
        summary=f"no decision for {signal}: {exemption}",
        detail={"signal": signal, "owner": exemption.owner, "until": exemption.expires_at},
    )


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
        detail={"command": command.id, "kind": command.kind, "reason": command.reason},
    )
