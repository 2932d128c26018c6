"""Records as the detector would write them."""

from __future__ import annotations

from detector.contracts.findings import Action, Alert, Cause, Decision, Evidence, Mode, Score
from detector.lab.victims.digits import MODEL, MODEL_VERSION


def score(principal: str, *, statistic: float | None, queries: int = 200, flagged: bool = False) -> Score:
    return Score(
        model=MODEL,
        model_version=MODEL_VERSION,
        principal=principal,
        occurred_at=1.0,
        queries=queries,
        score=None if statistic is None else (1 - statistic) / 0.1,
        flagged=flagged,
        signals={} if statistic is None else {"prada": statistic},
    )


def alert(principal: str, *, query_index: int) -> Alert:
    return Alert(
        id=f"alert-{principal}",
        occurred_at=1.0,
        model=MODEL,
        model_version=MODEL_VERSION,
        principal=principal,
        signal="prada",
        episode=1,
        severity="high",
        score=1.5,
        threshold=1.0,
        query_index=query_index,
        evidence=(Evidence("W", 0.85, "ratio", 0.9), Evidence("distances", 160, "queries")),
        configuration="abc",
    )


def decision(principal: str, action: Action, *, sequence: int, mode: Mode = "enforce") -> Decision:
    return Decision(
        id=f"decision-{principal}-{sequence}",
        model=MODEL,
        principal=principal,
        action=action,
        mode=mode,
        epoch=(1, sequence),
        issued_at=1.0,
        expires_at=3601.0,
        causes=(Cause("cause", "signal:prada", 3601.0),),
        policy_version="p",
    )
