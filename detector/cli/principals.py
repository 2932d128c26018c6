"""``weirguard principals``: who is suspicious, why, and the order to forget one."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from detector.cli.operator import (
    ApiKey,
    File,
    Issuer,
    Output,
    Reason,
    Wait,
    alert_line,
    plain,
    principal_of,
    send,
    told,
)
from detector.cli.records import Key, newest, read_alerts, read_decisions, read_scores
from detector.cli.screen import console, say, say_json, table
from detector.contracts.findings import Decision, Score
from detector.core.exposure import EXPOSURES
from detector.runtime.settings import load_settings
from detector.runtime.times import rfc3339

app = typer.Typer(help="Look at principals, and forget one.", no_args_is_help=True)


@app.command()
def top(
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    output: Output = "text",
    settings: File = None,
) -> None:
    """List the most suspicious principals; a score of 1 is the threshold."""
    kafka = load_settings(settings).kafka
    standing = read_decisions(kafka, time.time()).standing
    chosen = sorted(read_scores(kafka).items(), key=_least_suspicious, reverse=True)[:count]
    if output == "json":
        say_json([_joined(score, standing.get(key)) for key, score in chosen])
    else:
        _print_table(chosen, standing)


@app.command()
def show(
    model: str,
    principal: str,
    *,
    api_key: ApiKey = False,
    output: Output = "text",
    settings: File = None,
) -> None:
    """Show all that is known about PRINCIPAL of MODEL: score, signals, decision and alerts."""
    loaded = load_settings(settings)
    key = model, principal_of(loaded, principal, api_key)
    score = read_scores(loaded.kafka).get(key)
    decision = read_decisions(loaded.kafka, time.time()).standing.get(key)
    alerts = newest(read_alerts(loaded.kafka, *key))
    if output == "json":
        say_json({**_joined(score, decision), "alerts": [plain(alert) for alert in alerts]})
    else:
        say(f"{key[0]} {key[1]}", *_score_lines(score), _decision_line(decision))
        say("alerts:" if alerts else "alerts: none", *(f"  {alert_line(alert)}" for alert in alerts))
    if score is None and decision is None and not alerts:
        raise typer.Exit(1)


@app.command()
def clear(
    model: str,
    principal: str,
    *,
    reason: Reason,
    issuer: Issuer,
    api_key: ApiKey = False,
    wait: Wait = 30.0,
    settings: File = None,
) -> None:
    """Forget PRINCIPAL of MODEL: his history, the verdicts on him and all decisions. He begins anew."""
    loaded = load_settings(settings)
    name = principal_of(loaded, principal, api_key)
    send(loaded, "clear", model, name, issuer=issuer, reason=reason, wait=wait)


def _least_suspicious(item: tuple[Key, Score]) -> tuple[bool, float, int]:
    score = item[1]
    return score.flagged, -1.0 if score.score is None else score.score, score.queries


def _joined(score: Score | None, decision: Decision | None) -> dict[str, object]:
    return {"score": score and plain(score), "decision": decision and plain(decision)}


def _score_lines(score: Score | None) -> list[str]:
    if score is None:
        return ["score: none yet"]
    value = "none yet" if score.score is None else f"{score.score:.3g} (1 is the threshold)"
    verdict = "a suspect" if score.flagged else "not a suspect"
    head = f"score: {value}, {verdict}, {score.queries} queries to version {score.model_version}"
    signals = [f"  {name}: {_told(name, statistic, 'g')}" for name, statistic in sorted(score.signals.items())]
    return [f"{head}, {rfc3339(score.occurred_at)}", *_answered_line(score), *signals]


def _answered_line(score: Score) -> list[str]:
    """What became of the answered queries; nothing where an earlier version wrote the score."""
    if score.answered is None:
        return []
    parts = [f"{score.judged} judged", f"{score.repeats} repeated"]
    for counts, what in ((score.unjudged, "unjudged"), (score.dropped, "dropped")):
        reasons = ", ".join(f"{reason} {queries}" for reason, queries in sorted(counts.items()))
        parts.append(f"{sum(counts.values())} {what}" + (f" ({reasons})" if reasons else ""))
    return [f"answered: {score.answered} = {' + '.join(parts)}"]


def _told(name: str, statistic: float, form: str) -> str:
    """A signal's statistic; those that are exposures say so by their unit."""
    return f"{statistic:.1f}% exposed" if name in EXPOSURES else format(statistic, form)


def _decision_line(decision: Decision | None) -> str:
    if decision is None:
        return "decision: none"
    causes = ", ".join(f"{cause.origin} ({cause.id})" for cause in decision.causes)
    return f"decision: {told(decision.action)} ({decision.mode}) until {rfc3339(decision.expires_at)} for {causes}"


def _print_table(chosen: list[tuple[Key, Score]], standing: dict[Key, Decision]) -> None:
    if not chosen:
        say("Nobody has a score yet.")
        return
    head = ("model", "principal", "score", "queries", "signals", "verdict", "decision")
    console().print(table(head, (_row(key, score, standing.get(key)) for key, score in chosen)))


def _row(key: Key, score: Score, decision: Decision | None) -> tuple[str, ...]:
    return (
        *key,
        "" if score.score is None else f"{score.score:.3f}",
        str(score.queries),
        " ".join(f"{name}={_told(name, value, '.3g')}" for name, value in sorted(score.signals.items())),
        "suspect" if score.flagged else "",
        "" if decision is None else f"{told(decision.action)} ({decision.mode})",
    )
