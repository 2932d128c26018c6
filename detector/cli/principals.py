"""``weirguard principals``: who is suspicious, why, and the order to forget one."""

from __future__ import annotations

import time
from textwrap import wrap
from typing import Annotated, Any

import typer

from detector.cli.operator import (
    ApiKey,
    File,
    Issuer,
    Reason,
    Wait,
    alert_line,
    plain,
    principal_of,
    send,
    told,
)
from detector.cli.options import Json, Output
from detector.cli.records import Key, newest, read_alerts, read_decisions, read_scores
from detector.cli.screen import note, say, say_json
from detector.contracts.findings import Decision, Score
from detector.core.exposure import EXPOSURES
from detector.runtime.printable import printable
from detector.runtime.settings import load_settings
from detector.runtime.times import rfc3339

_SHOWN = 3
_WEIGHED = "suspicion."
_WIDTH = 80 - 18
"""Characters beside the figures."""

app = typer.Typer(help="Look at principals, and forget one.", no_args_is_help=True)


@app.command()
def top(
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    json: Json = False,
    output: Output = "text",
    settings: File = None,
) -> None:
    """List the most suspicious principals and the three signals that matter most; a score of 1 is the threshold."""
    kafka = load_settings(settings).kafka
    standing = read_decisions(kafka, time.time()).standing
    chosen = sorted(read_scores(kafka).items(), key=_least_suspicious, reverse=True)[:count]
    if json or output == "json":
        say_json([_joined(score, standing.get(key)) | {"matters": _matters(score)} for key, score in chosen])
        return
    _print_list(chosen, standing)
    doubted = sorted({f"{score.model} {score.model_version}" for _, score in chosen if score.calibrated is False})
    if doubted:
        from detector.stream.profiles import uncalibrated

        note(f"{uncalibrated(', '.join(doubted))}; write a profile with `weirguard calibrate`.")


@app.command()
def show(
    model: str,
    principal: str,
    *,
    api_key: ApiKey = False,
    json: Json = False,
    output: Output = "text",
    settings: File = None,
) -> None:
    """Show all that is known about PRINCIPAL of MODEL: score, signals, decision and alerts."""
    loaded = load_settings(settings)
    key = model, principal_of(loaded, principal, api_key)
    score = read_scores(loaded.kafka).get(key)
    decision = read_decisions(loaded.kafka, time.time()).standing.get(key)
    alerts = newest(read_alerts(loaded.kafka, *key))
    if json or output == "json":
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
    doubt = ", uncalibrated" if score.calibrated is False else ""
    head = f"score: {value}, {verdict}{doubt}, {score.queries} queries to version {score.model_version}"
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


def _print_list(chosen: list[tuple[Key, Score]], standing: dict[Key, Decision]) -> None:
    if not chosen:
        say("Nobody has a score yet.")
        return
    say(f"{'score':>7}{'queries':>9}  principal, model and version; the signals that matter most")
    for key, score in chosen:
        value = "" if score.score is None else f"{score.score:.2f}"
        figures = f"{value:>7}{score.queries:>9}  "
        for line in _lines(score, standing.get(key)):
            say(figures + line)
            figures = " " * len(figures)


def _lines(score: Score, decision: Decision | None) -> list[str]:
    """Who it is and what stands, then why; nothing is cut off, and no line is too long for a terminal."""
    who = f"{printable(score.principal)}, {printable(score.model)} {printable(score.model_version)}"
    said = ["suspect"] if score.flagged else []
    said += ["uncalibrated"] if score.calibrated is False else []
    said += [] if decision is None else [f"{told(decision.action)} ({decision.mode})"]
    why = ", ".join(f"{own['name']} {_told(own['name'], own['value'], '.3g')}" for own in _matters(score))
    texts = [f"{who}: {', '.join(said)}" if said else who, why]
    return [line for text in texts for line in wrap(text, _WIDTH, break_on_hyphens=False)]


def _matters(score: Score) -> list[dict[str, Any]]:
    """The three signals that matter most: by a profile the measures that are furthest beyond honest accounts, in their
    standard deviations; without one the first of those that speak."""
    weighed = {name.removeprefix(_WEIGHED): value for name, value in score.signals.items() if name.startswith(_WEIGHED)}
    ranked = sorted(weighed.items(), key=lambda own: -own[1]) if weighed else sorted(score.signals.items(), key=_order)
    return [{"name": name, "value": value} for name, value in ranked[:_SHOWN]]


def _order(signal: tuple[str, float]) -> tuple[bool, bool, str]:
    """PRADA first, then the meters of exposure."""
    return signal[0] != "prada", signal[0] not in EXPOSURES, signal[0]
