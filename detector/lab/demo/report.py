"""The last words of the demo: the tables of what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detector.contracts.findings import Alert, Evidence, Mode
from detector.core.signals import MEASURES, WEIGHED
from detector.lab.demo.outcome import Leaves, ModelOutcome, Outcome, ThiefOutcome
from detector.lab.fidelity import Fidelity
from detector.lab.population import known_false_alarms

_JUDGES = {"prada": "prada at its defaults", "suspicion": "all signals, with a profile"}
_SHOWN = 4
"""Pieces of evidence that are told."""

_WORDS = {name: measure.about for name, measure in MEASURES.items()} | {
    "shapiro_w": "W of the distances between queries",
    "consecutive_checks": "suspicious tests in a row",
    "distances_tested": "distances tested",
    "mean_distance": "mean distance",
    "unexplained": "what no honest account explains",
    "prada": "distances between queries that are not normally distributed",
    "margin": "queries close to where the tree decides",
}


def render_report(outcome: Outcome) -> RenderableType:
    """The outcome, what it means, and what the demo leaves out."""
    return Group(_figures(outcome), _totals(outcome), Text(), _verdict(outcome), Text(), _left_out())


def _figures(outcome: Outcome) -> Table:
    table = Table(box=box.ROUNDED, title=f"Weirguard demo, {outcome.mode}", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    for own in outcome.models:
        table.add_column(own.model, overflow="fold", ratio=1)
    for name, told in _rows(outcome.mode):
        table.add_row(name, *map(told, outcome.models))
    return table


def _rows(mode: Mode) -> Iterator[tuple[str, Callable[[ModelOutcome], str]]]:
    yield "judged by", lambda own: _JUDGES[own.promise.signal]
    yield "thief", lambda own: own.theft
    yield "  flagged at", lambda own: _query(own.thief.flagged_at)
    yield "  because", lambda own: _because(own.thief.alert)
    if mode == "enforce":
        yield "  slowed at", lambda own: _query(own.thief.slowed_at)
        yield "  refused at", lambda own: _query(own.thief.refused_at)
    yield "  queries", lambda own: f"{own.thief.sent:,} sent, {own.thief.answered:,} answered"
    yield "  leaves seen", lambda own: _leaves(own.thief.leaves)
    yield "  exposure", lambda own: _exposure(own.thief)
    named = "clone with Weirguard" if mode == "enforce" else "clone in this run"
    yield named, lambda own: _fidelity(own.thief.hindered)
    yield "clone without", lambda own: _fidelity(own.thief.unhindered)
    yield "honest accounts", lambda own: str(len(own.honest))
    yield "  flagged", lambda own: _names(own.honest_flagged)
    yield "  refused", lambda own: _names(own.honest_refused)
    yield "  suspicion", _suspicion
    yield "decision latency", lambda own: _latency(own.thief)


def _query(number: int | None) -> str:
    return "never" if number is None else f"query {number:,}"


def _because(alert: Alert | None) -> str:
    return "" if alert is None else "\n".join(map(_said, alert.evidence[:_SHOWN]))


def _said(item: Evidence) -> str:
    """``item`` in words."""
    limit = "" if item.threshold is None else f" ({_limit(item.name)} {item.threshold:.3g})"
    return f"{_WORDS.get(item.name, item.name)}: {item.value:.3g}{limit}"


def _limit(name: str) -> str:
    """What the threshold of a piece of evidence is: what the likest honest account reached, where it adds to D."""
    return "likest honest account" if name in (*MEASURES, *WEIGHED) else "limit"


def _exposure(thief: ThiefOutcome) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {read:.0f}%" for name, read in thief.exposure.items())


def _leaves(leaves: Leaves | None) -> str:
    if leaves is None:
        return ""
    flagged = "" if leaves.flagged is None else f"{leaves.flagged} of {leaves.of} when flagged, "
    return f"{flagged}{leaves.end} in the end; without Weirguard all after {leaves.unhindered:,} queries"


def _names(accounts: list[str]) -> str:
    return f"{len(accounts)}: {', '.join(accounts)}" if accounts else "0"


def _suspicion(own: ModelOutcome) -> str:
    told = [account.most for account in own.honest if account.most is not None]
    return f"{max(told):.2f} at most; 1 is the threshold" if told else "none published"


def _fidelity(fidelity: Fidelity) -> str:
    return (
        f"agrees on {fidelity.test:.1%} of unseen inputs and {fidelity.uniform:.1%} of uniform ones; "
        f"{fidelity.queries:,} answers"
    )


def _latency(thief: ThiefOutcome) -> str:
    return "not measured" if thief.latency_seconds is None else f"{1000 * thief.latency_seconds:.0f} ms"


def _totals(outcome: Outcome) -> Text:
    return Text(
        f"{outcome.queries:,} queries in {outcome.seconds:.0f} s, {outcome.queries / outcome.seconds:.0f} a second, "
        f"{outcome.failed:,} failed. Decision latency is from the answer to the query that betrayed the thief to a "
        "gate that knows.",
        style="dim",
    )


def _verdict(outcome: Outcome) -> Text:
    broken = outcome.broken_promises()
    if broken:
        return Text("Not as promised: " + "; ".join(broken) + ".", style="bold red")
    kept = "refused" if outcome.mode == "enforce" else "flagged and nobody was refused"
    nobody = " and nobody honest was even flagged" if outcome.mode == "enforce" else ", and nobody honest was flagged"
    return Text(f"As promised: both thieves were {kept}{nobody}.", style="bold green")


def _left_out() -> Text:
    text = Text(
        "A clone of the digits thief's 100 natural images alone reads most digits already; what his augmentation adds "
        "to that, Weirguard takes away. Not among the honest accounts of the digits, because prada alone, at its "
        "defaults, takes them for thieves:\n",
        style="dim",
    )
    for habit in known_false_alarms():
        text.append(f"  {habit.name}: {habit.about}; {habit.false_alarm}\n")
    text.append("With a profile, as the tumours have one, such habits are learnt from honest traffic.")
    return text
