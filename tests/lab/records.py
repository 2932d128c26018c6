"""Records as the detector would write them, and what a terminal would show."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console, RenderableType

from detector.contracts.findings import Action, Alert, Cause, Decision, Evidence, GroupAlert, GroupMember, Mode, Score
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


def suspected(principal: str, *, query_index: int) -> Alert:
    """An alert of ``suspicion``, whose evidence names measures."""
    evidence = (
        Evidence("unexplained", 21.25, "standard deviations", 14.0),
        Evidence("one_feature", 12.5, "standard deviations", 3.5),
        Evidence("margin", 6.0, "standard deviations", 2.0),
    )
    return replace(alert(principal, query_index=query_index), signal="suspicion", model="tumours", evidence=evidence)


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
        evidence=(Evidence("shapiro_w", 0.85, "ratio", 0.9), Evidence("distances_tested", 160, "queries")),
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


def group(*principals: str, revision: int = 1) -> GroupAlert:
    return GroupAlert(
        id="c0ffee",
        revision=revision,
        occurred_at=1.0,
        model="tumours",
        model_version=MODEL_VERSION,
        severity="high",
        score=4.5,
        chance=1e-27,
        size=len(principals),
        members=tuple(GroupMember(name, 0.01, 3) for name in principals),
        evidence=(Evidence("foreign_one_feature", 1.5, "standard deviations"),),
        configuration="abc",
        profile="def",
    )


def drawn(renderable: RenderableType, width: int = 120, height: int = 40) -> str:
    """Returns what a terminal of this size would show."""
    console = Console(file=StringIO(), width=width, height=height, force_terminal=False)
    console.print(renderable)
    output = console.file
    assert isinstance(output, StringIO)
    return output.getvalue()
