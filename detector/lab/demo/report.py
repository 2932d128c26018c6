"""The last words of the demo: the tables of what happened."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detector.lab.demo.outcome import Outcome
from detector.lab.fidelity import Fidelity
from detector.lab.population import known_false_alarms


def render_report(outcome: Outcome) -> RenderableType:
    """The outcome, what it means, and what the demo leaves out."""
    return Group(_figures(outcome), Text(), _verdict(outcome), Text(), _left_out())


def _figures(outcome: Outcome) -> Table:
    table = Table(box=box.ROUNDED, show_header=False, title=f"Weirguard demo, {outcome.mode}", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(outcome):
        table.add_row(name, value)
    return table


def _rows(outcome: Outcome) -> Iterator[tuple[str, str]]:
    thief = outcome.thief
    yield "thief flagged at", _query(thief.flagged_at)
    if outcome.mode == "enforce":
        yield "thief slowed at", _query(thief.slowed_at)
        yield "thief refused at", _query(thief.refused_at)
    yield "thief's queries", f"{thief.sent:,} sent, {thief.answered:,} answered"
    named = "clone with Weirguard" if outcome.mode == "enforce" else "clone in this run"
    yield named, _fidelity(thief.hindered)
    yield "clone without Weirguard", _fidelity(thief.unhindered)
    yield "honest accounts", f"{len(outcome.honest)}, among them"
    yield "  flagged", _names(outcome.honest_flagged)
    yield "  refused", _names(outcome.honest_refused)
    lowest = [a.least_statistic for a in outcome.honest if a.least_statistic is not None]
    yield "  lowest W of any", f"{min(lowest):.3f}" if lowest else "none published"
    yield "decision latency", _latency(thief.latency_seconds)
    rate = outcome.queries / outcome.seconds
    yield (
        "all queries",
        f"{outcome.queries:,} in {outcome.seconds:.0f} s, {rate:.0f} a second, {outcome.failed:,} failed",
    )


def _query(number: int | None) -> str:
    return "never" if number is None else f"his query {number:,}"


def _names(accounts: list[str]) -> str:
    return f"{len(accounts)}: {', '.join(accounts)}" if accounts else "0"


def _fidelity(fidelity: Fidelity) -> str:
    return (
        f"agrees on {fidelity.test:.1%} of unseen digits, {fidelity.uniform:.1%} of uniform inputs, "
        f"from {fidelity.queries:,} answers"
    )


def _latency(seconds: float | None) -> str:
    if seconds is None:
        return "not measured"
    return f"{1000 * seconds:.0f} ms from the answer to the query that betrayed him to a gate that knows"


def _verdict(outcome: Outcome) -> Text:
    broken = outcome.broken_promises()
    if broken:
        return Text("Not as promised: " + "; ".join(broken) + ".", style="bold red")
    kept = (
        "the thief was refused and nobody honest was"
        if outcome.mode == "enforce"
        else "the thief was flagged and nobody refused"
    )
    return Text(f"As promised: {kept}.", style="bold green")


def _left_out() -> Text:
    text = Text(
        "A clone of the thief's 100 natural images alone reads most digits already; what his augmentation adds to "
        "that, Weirguard takes away. Not among the honest accounts here, because prada alone, at its defaults, takes "
        "them for thieves:\n",
        style="dim",
    )
    for habit in known_false_alarms():
        text.append(f"  {habit.name}: {habit.about}; {habit.false_alarm}\n")
    text.append("Put such accounts on the allowlist, or observe.")
    return text
