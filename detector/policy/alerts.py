"""The revisions of one alert: the first, and one for each rise of its severity."""

from __future__ import annotations

from dataclasses import replace

from detector.contracts.findings import Alert, Evidence, Finding, severity_of
from detector.policy.accounting import UNJUDGED
from detector.policy.identity import content_id

UNCALIBRATED = "uncalibrated"
"""The reason given with a cause whose verdict rests on no profile."""


def first_alert(finding: Finding, episode: int, now: float, configuration: str, suppressed_by: str | None) -> Alert:
    """Revision 1 of the alert on ``finding``, at policy time ``now``, seconds."""
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
        calibrated=None if finding.signal == UNJUDGED else finding.profile is not None,
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
    """The next revision of ``alert``: the query ``query_index`` raised its severity."""
    return replace(
        alert,
        occurred_at=now,
        severity=severity_of(score),
        score=score,
        query_index=query_index,
        evidence=_floats(evidence),
        suppressed_by=suppressed_by,
        revision=alert.revision + 1,
    )
