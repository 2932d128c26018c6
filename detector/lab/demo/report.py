"""The outcome of a demo run, whether it is what the demo promises, and the final report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detector.contracts.findings import Alert, Evidence, Mode
from detector.core.measures import MEASURES
from detector.core.signals import WEIGHED
from detector.lab.fidelity import Fidelity
from detector.lab.traffic import known_false_alarms

_MOST_FAILED = 0.01


@dataclass(frozen=True, slots=True)
class Promise:
    """The thief is flagged by ``signal`` and refused before their query number ``query``."""

    signal: str
    query: int


@dataclass(frozen=True, slots=True)
class Leaves:
    """How many of a tree's ``of`` leaves the thief had seen when ``flagged`` and at the ``end``.

    ``unhindered``: the number of queries after which an unhindered thief has seen them all.
    """

    flagged: int | None
    end: int
    of: int
    unhindered: int


@dataclass(frozen=True, slots=True)
class ThiefOutcome:
    """Query numbers count from 1 and include refused queries; None for what did not happen.

    ``alert``: the first alert. ``slowed_at``: the first query refused. ``refused_at``: the first query refused after
    which none was answered. ``latency_seconds``: from the answer to the flagged query until a gate obeys the decision.
    ``hindered``: the clone from the answers of this run; ``unhindered``: the same thief's clone from the whole budget;
    ``own_inputs``: the same thief's clone from the answers to their own natural inputs alone. ``exposure``: the final
    readings of the meters, in percent, by meter.
    """

    sent: int
    answered: int
    alert: Alert | None
    slowed_at: int | None
    refused_at: int | None
    latency_seconds: float | None
    hindered: Fidelity
    unhindered: Fidelity
    own_inputs: Fidelity | None = None
    leaves: Leaves | None = None
    exposure: Mapping[str, float] = field(default_factory=dict)

    @property
    def flagged_at(self) -> int | None:
        """The number of the query at which the thief was flagged."""
        return None if self.alert is None else self.alert.query_index + 1


@dataclass(frozen=True, slots=True)
class HonestOutcome:
    """One honest account. ``most``: the largest suspicion published about it; 1 is the threshold."""

    account: str
    habit: str
    answered: int
    refused: int
    flagged: bool
    most: float | None


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """The outcome on one ``model``. ``theft``: the attack, in words."""

    model: str
    theft: str
    promise: Promise
    thief: ThiefOutcome
    honest: tuple[HonestOutcome, ...]

    @property
    def honest_flagged(self) -> list[str]:
        return [account.account for account in self.honest if account.flagged]

    @property
    def honest_refused(self) -> list[str]:
        return [account.account for account in self.honest if account.refused]

    def broken_promises(self, mode: Mode) -> Iterator[str]:
        """Yields a sentence for each broken promise about the model."""
        alert = self.thief.alert
        if alert is None:
            yield "the thief was never flagged"
        elif alert.signal != self.promise.signal:
            yield f"the thief was flagged by {alert.signal}, not by {self.promise.signal}"
        yield from self._unenforced() if mode == "observe" else self._enforced()
        if self.honest_flagged:
            yield f"honest accounts were flagged: {', '.join(self.honest_flagged)}"
        if self.honest_refused:
            yield f"honest accounts were refused: {', '.join(self.honest_refused)}"
        if silent := [account.account for account in self.honest if not account.answered]:
            yield f"honest accounts got no answer at all: {', '.join(silent)}"

    def _enforced(self) -> Iterator[str]:
        refused_at, last = self.thief.refused_at, self.promise.query
        if refused_at is None:
            yield f"the thief was never refused in {self.thief.sent:,} queries"
        elif refused_at >= last:
            yield f"the thief was refused at query {refused_at:,}, not before query {last}"

    def _unenforced(self) -> Iterator[str]:
        if self.thief.slowed_at is not None:
            yield "the thief was turned away though nothing was to be enforced"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome on all models. ``queries`` were sent in ``seconds`` of traffic; ``failed`` got no valid answer."""

    mode: Mode
    seconds: float
    queries: int
    failed: int
    models: tuple[ModelOutcome, ...]

    def broken_promises(self) -> list[str]:
        """Returns a sentence for each broken promise of the demo."""
        broken = [f"{own.model}: {sentence}" for own in self.models for sentence in own.broken_promises(self.mode)]
        if self.failed > _MOST_FAILED * self.queries:
            broken.append(f"{self.failed:,} of {self.queries:,} queries failed")
        return broken


_JUDGES = {"prada": "prada at its defaults", "suspicion": "all signals, with a profile"}
_SHOWN = 4
"""The number of evidence items in the report."""

_WORDS = {name: measure.about for name, measure in MEASURES.items()} | {
    "shapiro_w": "W of the distances between queries",
    "consecutive_checks": "suspicious tests in a row",
    "distances_tested": "distances tested",
    "mean_distance": "mean distance",
    "unexplained": "deviation that no honest account explains",
    "prada": "distances between queries that are not normally distributed",
    "margin": "queries close to where the tree decides",
}


def render_report(outcome: Outcome) -> RenderableType:
    """Returns the figures, the verdict, and what the demo leaves out."""
    return Group(_figures(outcome), _totals(outcome), Text(), _verdict(outcome), Text(), _natural(outcome), _left_out())


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
    yield "  leaves seen", lambda own: _leaves_seen(own.thief.leaves)
    yield "  exposure", lambda own: _exposure(own.thief)
    named = "clone with Weirguard" if mode == "enforce" else "clone in this run"
    yield named, lambda own: _fidelity(own.thief.hindered)
    yield "clone without", lambda own: _fidelity(own.thief.unhindered)
    yield "own inputs alone", lambda own: _start(own.thief.own_inputs)
    yield "honest accounts", lambda own: str(len(own.honest))
    yield "  flagged", lambda own: _names(own.honest_flagged)
    yield "  refused", lambda own: _names(own.honest_refused)
    yield "  suspicion", _suspicion
    yield "decision latency", lambda own: _latency(own.thief)


def _query(number: int | None) -> str:
    return "never" if number is None else f"query {number:,}"


def _because(alert: Alert | None) -> str:
    return "" if alert is None else "\n".join(map(_evidence, alert.evidence[:_SHOWN]))


def _evidence(item: Evidence) -> str:
    """Returns ``item`` in words."""
    limit = "" if item.threshold is None else f" ({_limit(item.name)} {item.threshold:.3g})"
    return f"{_WORDS.get(item.name, item.name)}: {item.value:.3g}{limit}"


def _limit(name: str) -> str:
    """Returns what the threshold is: the closest honest account's value where the evidence contributes to D."""
    return "closest honest account" if name in (*MEASURES, *WEIGHED) else "limit"


def _exposure(thief: ThiefOutcome) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {read:.0f}%" for name, read in thief.exposure.items())


def _leaves_seen(leaves: Leaves | None) -> str:
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
        f"agrees on {fidelity.test:.1%} of unseen natural inputs and {fidelity.uniform:.1%} of uniform ones; "
        f"{fidelity.queries:,} answers"
    )


def _start(fidelity: Fidelity | None) -> str:
    return "" if fidelity is None else f"{_fidelity(fidelity)} to the thief's own natural inputs"


def _latency(thief: ThiefOutcome) -> str:
    return "not measured" if thief.latency_seconds is None else f"{1000 * thief.latency_seconds:.0f} ms"


def _totals(outcome: Outcome) -> Text:
    return Text(
        f"{outcome.queries:,} queries in {outcome.seconds:.0f} s, {outcome.queries / outcome.seconds:.0f} a second, "
        f"{outcome.failed:,} failed. Decision latency runs from the answer to the flagged query until a gate knows of "
        "the decision.",
        style="dim",
    )


def _verdict(outcome: Outcome) -> Text:
    broken = outcome.broken_promises()
    if broken:
        return Text("Not as promised: " + "; ".join(broken) + ".", style="bold red")
    kept = "refused" if outcome.mode == "enforce" else "flagged and nobody was refused"
    nobody = " and nobody honest was even flagged" if outcome.mode == "enforce" else ", and nobody honest was flagged"
    return Text(f"As promised: both thieves were {kept}{nobody}.", style="bold green")


def _natural(outcome: Outcome) -> Text:
    """Says what the agreement on natural inputs means, for each thief who began with inputs of their own."""
    text = Text(style="dim")
    for own in outcome.models:
        if (start := own.thief.own_inputs) is not None:
            text.append(
                f"The thief of the {own.model} needs {start.queries} answers to natural inputs of their own for a "
                f"clone that agrees on {start.test:.1%} of unseen ones. Such inputs carry most of this model, and no "
                "refusal takes them back; Weirguard stops what the attack adds to them.\n"
            )
    return text


def _left_out() -> Text:
    text = Text(
        "These honest habits are not among the accounts of the digits, because prada alone, at its defaults, mistakes "
        "them for theft:\n",
        style="dim",
    )
    for habit in known_false_alarms():
        text.append(f"  {habit.name}: {habit.about}; {habit.false_alarm}\n")
    text.append("A profile, such as the one of the tumours, learns such habits from honest traffic.")
    return text
