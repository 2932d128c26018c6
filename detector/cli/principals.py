"""``weirguard principals`` and ``alerts``: list suspicious principals, show or clear one, and follow the alerts."""

from __future__ import annotations

import time
from contextlib import suppress
from textwrap import wrap
from typing import Annotated, Any

import typer

from detector.cli.ending import end_with_reader
from detector.cli.operator import (
    alert_line,
    as_json,
    new_command,
    note_uncalibrated,
    principal_of,
    send,
)
from detector.cli.options import ApiKey, Issuer, Json, Reason, SettingsFile, Wait
from detector.cli.screen import flush, print_json, print_lines
from detector.contracts.actions import describe_action
from detector.contracts.findings import Decision, Score
from detector.replay.topics import Key, Topic, newest, read_alerts, read_decisions, read_scores, readable_alerts
from detector.runtime.settings import load_settings
from detector.runtime.text import printable, rfc3339

_SHOWN_SIGNALS = 3
_MEASURE = "suspicion."
_WIDTH = 80 - 18
"""Characters in front of the columns of numbers."""

app = typer.Typer(help="Show principals, and clear one.", no_args_is_help=True)
alerts = typer.Typer(help="Follow the alerts.", no_args_is_help=True)


@app.command()
def top(
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """List the most suspicious principals, each with its three strongest signals; a score of 1 is the threshold."""
    kafka = load_settings(settings).kafka
    decisions = read_decisions(kafka, time.time()).current
    chosen = sorted(read_scores(kafka).items(), key=_suspicion, reverse=True)[:count]
    if json:
        print_json([_joined(score, decisions.get(key)) | {"matters": _matters(score)} for key, score in chosen])
        return
    if not chosen:
        print_lines("There are no scores yet.")
        return
    print_lines(f"{'score':>7}{'queries':>9}  principal, model and version; the signals that matter most")
    for key, score in chosen:
        value = "" if score.score is None else f"{score.score:.2f}"
        figures = f"{value:>7}{score.queries:>9}  "
        for line in _lines(score, decisions.get(key)):
            print_lines(figures + line)
            figures = " " * len(figures)
    note_uncalibrated(f"{score.model} {score.model_version}" for _, score in chosen if score.calibrated is False)


@app.command()
def show(
    model: str,
    principal: str,
    *,
    api_key: ApiKey = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Show the score, signals, decision and alerts of PRINCIPAL of MODEL."""
    loaded = load_settings(settings)
    key = model, principal_of(loaded, principal, api_key)
    score = read_scores(loaded.kafka).get(key)
    decision = read_decisions(loaded.kafka, time.time()).current.get(key)
    known = newest(read_alerts(loaded.kafka, *key))
    if json:
        print_json({**_joined(score, decision), "alerts": [as_json(alert) for alert in known]})
    else:
        print_lines(f"{key[0]} {key[1]}", *_score_lines(score), _decision_line(decision))
        print_lines("alerts:" if known else "alerts: none", *(f"  {alert_line(alert)}" for alert in known))
    if score is None and decision is None and not known:
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
    settings: SettingsFile = None,
) -> None:
    """Clear PRINCIPAL of MODEL: drop their history, verdicts and decisions."""
    loaded = load_settings(settings)
    name = principal_of(loaded, principal, api_key)
    send(loaded, new_command("clear", issuer, model, name, reason), wait)


@alerts.callback()
def _alerts() -> None:
    """Follow the alerts."""


@alerts.command()
def tail(
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="First all stored alerts, then new ones.")
    ] = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Print alerts as they come, one per line, until interrupted; an alert again if its severity rises."""
    kafka = load_settings(settings).kafka
    end_with_reader()
    with suppress(KeyboardInterrupt), Topic(kafka, kafka.topics.alerts) as topic:
        if not from_beginning:
            topic.seek_to_end()
        for alert in readable_alerts(topic.follow()):
            if json:
                print_json(as_json(alert), indent=None)
            else:
                print_lines(alert_line(alert))
            flush()


def _suspicion(item: tuple[Key, Score]) -> tuple[bool, float, int]:
    score = item[1]
    return score.flagged, -1.0 if score.score is None else score.score, score.queries


def _joined(score: Score | None, decision: Decision | None) -> dict[str, object]:
    return {"score": score and as_json(score), "decision": decision and as_json(decision)}


def _score_lines(score: Score | None) -> list[str]:
    if score is None:
        return ["score: none yet"]
    value = "none yet" if score.score is None else f"{score.score:.3g} (1 is the threshold)"
    verdict = "a suspect" if score.flagged else "not a suspect"
    uncalibrated = ", uncalibrated" if score.calibrated is False else ""
    head = f"score: {value}, {verdict}{uncalibrated}, {score.queries} queries to version {score.model_version}"
    signals = [f"  {name}: {_statistic(name, statistic, 'g')}" for name, statistic in sorted(score.signals.items())]
    return [f"{head}, {rfc3339(score.occurred_at)}", *_answered_line(score), *signals]


def _answered_line(score: Score) -> list[str]:
    """Returns the line of answered queries; none for a score of an earlier version."""
    if score.answered is None:
        return []
    parts = [f"{score.judged} judged", f"{score.repeats} repeated"]
    for counts, what in ((score.unjudged, "unjudged"), (score.dropped, "dropped")):
        reasons = ", ".join(f"{reason} {queries}" for reason, queries in sorted(counts.items()))
        parts.append(f"{sum(counts.values())} {what}" + (f" ({reasons})" if reasons else ""))
    return [f"answered: {score.answered} = {' + '.join(parts)}"]


def _statistic(name: str, statistic: float, form: str) -> str:
    """Returns a signal's statistic for people; that of a meter of exposure with its unit."""
    from detector.core.exposure import EXPOSURES

    return f"{statistic:.1f}% exposed" if name in EXPOSURES else format(statistic, form)


def _decision_line(decision: Decision | None) -> str:
    if decision is None:
        return "decision: none"
    causes = ", ".join(f"{cause.origin} ({cause.id})" for cause in decision.causes)
    action = f"{describe_action(decision.action)} ({decision.mode})"
    return f"decision: {action} until {rfc3339(decision.expires_at)} for {causes}"


def _lines(score: Score, decision: Decision | None) -> list[str]:
    """Returns the principal with verdict and decision, then the signals, wrapped to the width of a terminal."""
    who = f"{printable(score.principal)}, {printable(score.model)} {printable(score.model_version)}"
    words = ["suspect"] if score.flagged else []
    words += ["uncalibrated"] if score.calibrated is False else []
    words += [] if decision is None else [f"{describe_action(decision.action)} ({decision.mode})"]
    why = ", ".join(f"{part['name']} {_statistic(part['name'], part['value'], '.3g')}" for part in _matters(score))
    texts = [f"{who}: {', '.join(words)}" if words else who, why]
    return [line for text in texts for line in wrap(text, _WIDTH, break_on_hyphens=False)]


def _matters(score: Score) -> list[dict[str, Any]]:
    """Returns the three strongest signals: with a profile the measures with the largest deviations, else the first
    signals with a value: ``prada``, then the meters of exposure."""
    from detector.core.exposure import EXPOSURES

    measures = {
        name.removeprefix(_MEASURE): value for name, value in score.signals.items() if name.startswith(_MEASURE)
    }
    if measures:
        ranked = sorted(measures.items(), key=lambda item: -item[1])
    else:
        ranked = sorted(score.signals.items(), key=lambda item: (item[0] != "prada", item[0] not in EXPOSURES, item[0]))
    return [{"name": name.removeprefix(_MEASURE), "value": value} for name, value in ranked[:_SHOWN_SIGNALS]]
