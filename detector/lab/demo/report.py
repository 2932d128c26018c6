"""The outcome of a demo run, whether it is what the demo promises, and the final report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detector.contracts.findings import Alert, Evidence, GroupAlert, Mode
from detector.core.measures import MEASURES
from detector.core.signals import WEIGHED
from detector.explain.explanation import describe
from detector.lab.fidelity import Fidelity
from detector.lab.traffic import known_false_alarms

_MOST_FAILED = 0.01
_JUDGES = {"prada": "prada at its defaults", "suspicion": "all signals, with a profile"}
_SHOWN = 4
"""The number of evidence items in the report."""

_WORDS = {
    "shapiro_w": "W of the distances between queries",
    "consecutive_checks": "suspicious tests in a row",
    "distances_tested": "distances tested",
    "mean_distance": "mean distance",
    "unexplained": "deviation that no honest account explains",
    "foreign_one_feature": "one or two features changed of another account's query",
    "foreign_sign_steps": "gradient-sign steps from another account's query",
    "foreign_crossings": "another answer than to another account's near query",
}


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
    which none was answered. ``latency_seconds``: from the answer to the flagged query until a gate applies the
    decision. ``hindered``: the clone from the answers of this run; ``unhindered``: the same thief's clone from the
    whole budget; ``own_inputs``: the same thief's clone from the answers to their own natural inputs alone.
    ``exposure``: the final readings of the meters, in percent, by meter.
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
    answered: int
    refused: int
    flagged: bool
    most: float | None


RING_FOUND, RING_ANSWERED = 0.8, 200
"""The least share of the ring's accounts that are found, and the answers that the ring does not get."""


@dataclass(frozen=True, slots=True)
class RingOutcome:
    """Accounts that shared one theft: ``accounts`` by name, their ``sent`` and ``answered`` queries in all.

    ``groups``: those that they were members of, as they were at the end, the largest first; ``found_at``: how many of
    their queries were answered when the first was found, None for none. ``alone``: those who were flagged themselves.
    Clones as in ``ThiefOutcome``.
    """

    accounts: tuple[str, ...]
    sent: int
    answered: int
    groups: tuple[GroupAlert, ...]
    found_at: int | None
    alone: int
    hindered: Fidelity
    unhindered: Fidelity

    @property
    def members(self) -> set[str]:
        """All members of these groups."""
        return {member.principal for group in self.groups for member in group.members}

    @property
    def found(self) -> int:
        """The number of the ring's accounts in groups."""
        return len(self.members & set(self.accounts))

    def broken_promises(self, mode: Mode) -> Iterator[str]:
        """Yields a sentence for each broken promise about the ring."""
        if self.found < RING_FOUND * len(self.accounts):
            yield f"{self.found} of the ring's {len(self.accounts)} accounts were found in a group"
        if mode == "enforce" and self.answered >= RING_ANSWERED:
            yield f"the ring got {self.answered:,} answers, not less than {RING_ANSWERED}"
        if mode == "observe" and self.answered < self.sent:
            yield "the ring was turned away though nothing was to be enforced"


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """The outcome on one ``model``. ``theft``: the attack, in words. ``ring``: None where there was none."""

    model: str
    theft: str
    promise: Promise
    thief: ThiefOutcome
    honest: tuple[HonestOutcome, ...]
    ring: RingOutcome | None = None

    @property
    def honest_in_ring(self) -> list[str]:
        """Honest accounts in the ring's groups."""
        members = set[str]() if self.ring is None else self.ring.members
        return [honest.account for honest in self.honest if honest.account in members]

    @property
    def honest_flagged(self) -> list[str]:
        return [honest.account for honest in self.honest if honest.flagged]

    @property
    def honest_refused(self) -> list[str]:
        return [honest.account for honest in self.honest if honest.refused]

    def broken_promises(self, mode: Mode) -> Iterator[str]:
        """Yields a sentence for each broken promise about the model."""
        if self.thief.alert is None:
            yield "the thief was never flagged"
        elif self.thief.alert.signal != self.promise.signal:
            yield f"the thief was flagged by {self.thief.alert.signal}, not by {self.promise.signal}"
        yield from self._stopped_late() if mode == "enforce" else self._stopped()
        if self.ring is not None:
            yield from self.ring.broken_promises(mode)
        silent = [honest.account for honest in self.honest if not honest.answered]
        accounts = {"were flagged": self.honest_flagged, "were refused": self.honest_refused}
        accounts["were taken for members of the ring"] = self.honest_in_ring
        for what, names in (accounts | {"got no answer at all": silent}).items():
            if names:
                yield f"honest accounts {what}: {', '.join(names)}"

    def _stopped_late(self) -> Iterator[str]:
        refused_at, last = self.thief.refused_at, self.promise.query
        if refused_at is None:
            yield f"the thief was never refused in {self.thief.sent:,} queries"
        elif refused_at >= last:
            yield f"the thief was refused at query {refused_at:,}, not before query {last}"

    def _stopped(self) -> Iterator[str]:
        if self.thief.slowed_at is not None:
            yield "the thief was turned away though nothing was to be enforced"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome on all models. ``queries`` were sent in ``seconds`` of traffic; ``failed`` got no valid answer.
    ``release_seconds``: from an operator's command to release the last model's thief until a gate obeyed; None: never.
    """

    mode: Mode
    seconds: float
    queries: int
    failed: int
    models: tuple[ModelOutcome, ...]
    release_seconds: float | None

    def broken_promises(self) -> list[str]:
        """Returns a sentence for each broken promise of the demo."""
        broken = [
            f"{model.model}: {sentence}" for model in self.models for sentence in model.broken_promises(self.mode)
        ]
        if self.failed > _MOST_FAILED * self.queries:
            broken.append(f"{self.failed:,} of {self.queries:,} queries failed")
        if self.release_seconds is None:
            broken.append("no gate obeyed the operator's release")
        return broken


def render_report(outcome: Outcome) -> RenderableType:
    """Returns the figures, the verdict, and what the demo leaves out."""
    return Group(_figures(outcome), _totals(outcome), Text(), _verdict(outcome), Text(), _natural(outcome), _left_out())


def _figures(outcome: Outcome) -> Table:
    table = Table(box=box.ROUNDED, title=f"Weirguard demo, {outcome.mode}", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    for model in outcome.models:
        table.add_column(model.model, overflow="fold", ratio=1)
    columns = [_column(model, outcome.mode) for model in outcome.models]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _column(model: ModelOutcome, mode: Mode) -> dict[str, str]:
    """Returns the figures of one model by their names."""
    thief, enforced = model.thief, mode == "enforce"
    suspicions = [account.most for account in model.honest if account.most is not None]
    latency = thief.latency_seconds
    stopped = {"  slowed at": _query(thief.slowed_at), "  refused at": _query(thief.refused_at)} if enforced else {}
    return {
        "judged by": _JUDGES[model.promise.signal],
        "thief": model.theft,
        "  flagged at": _query(thief.flagged_at),
        "  because": "\n".join(map(_evidence, thief.alert.evidence[:_SHOWN])) if thief.alert else "",
        **stopped,
        "  queries": f"{thief.sent:,} sent, {thief.answered:,} answered",
        "  leaves seen": _leaves_seen(thief.leaves),
        "  exposure": ", ".join(f"{name.replace('_', ' ')} {read:.0f}%" for name, read in thief.exposure.items()),
        "clone with Weirguard" if enforced else "clone in this run": _fidelity(thief.hindered),
        "clone without": _fidelity(thief.unhindered),
        "own inputs alone": f"{_fidelity(thief.own_inputs)} to the thief's own natural inputs"
        if thief.own_inputs
        else "",
        **_ring_rows(model),
        "honest accounts": str(len(model.honest)),
        "  flagged": _names(model.honest_flagged),
        "  refused": _names(model.honest_refused),
        "  suspicion": f"{max(suspicions):.2f} at most; 1 is the threshold" if suspicions else "none published",
        "decision latency": "not measured" if latency is None else f"{1000 * latency:.0f} ms",
    }


def _ring_rows(model: ModelOutcome) -> dict[str, str]:
    """Returns the figures of the ring; empty where there was none."""
    names = ("ring", "  found", "  shares", "  answers", "  clone", "  clone without")
    ring = model.ring
    if ring is None:
        return dict.fromkeys(names, "")
    at = "never" if ring.found_at is None else f"after {ring.found_at:,} answers to all of them"
    alone = f"{ring.alone} of them flagged alone"
    evidence = [_evidence(item) for group in ring.groups[:1] for item in group.evidence[:_SHOWN]]
    values = (
        f"{len(ring.accounts)} accounts that share one {model.theft}",
        f"{at}: {ring.found} of {len(ring.accounts)} accounts, {len(model.honest_in_ring)} honest ones; {alone}",
        "\n".join(evidence),
        f"{ring.sent:,} queries sent, {ring.answered:,} answered",
        _fidelity(ring.hindered),
        _fidelity(ring.unhindered),
    )
    return dict(zip(names, values, strict=True))


def _query(number: int | None) -> str:
    return "never" if number is None else f"query {number:,}"


def _evidence(item: Evidence) -> str:
    """Returns ``item`` in words; what contributes to D is compared with the closest honest account."""
    limit = "closest honest account" if item.name in (*MEASURES, *WEIGHED) else "limit"
    threshold = "" if item.threshold is None else f" ({limit} {item.threshold:.3g})"
    return f"{_WORDS.get(item.name) or describe(item.name)}: {item.value:.3g}{threshold}"


def _leaves_seen(leaves: Leaves | None) -> str:
    if leaves is None:
        return ""
    flagged = "" if leaves.flagged is None else f"{leaves.flagged} of {leaves.of} when flagged, "
    return f"{flagged}{leaves.end} in the end; without Weirguard all after {leaves.unhindered:,} queries"


def _names(accounts: list[str]) -> str:
    return f"{len(accounts)}: {', '.join(accounts)}" if accounts else "0"


def _fidelity(fidelity: Fidelity) -> str:
    return (
        f"agrees on {fidelity.test:.1%} of unseen natural inputs and {fidelity.uniform:.1%} of uniform ones; "
        f"{fidelity.queries:,} answers"
    )


def _totals(outcome: Outcome) -> Text:
    released, model, release = outcome.release_seconds, outcome.models[-1].model, ""
    if released is not None:
        release = f" An operator's command released the thief of the {model}; a gate obeyed {released:.1f} s later."
    return Text(
        f"{outcome.queries:,} queries in {outcome.seconds:.0f} s, {outcome.queries / outcome.seconds:.0f} a second, "
        f"{outcome.failed:,} failed. Decision latency runs from the answer to the flagged query until a gate knows of "
        f"the decision.{release}",
        style="dim",
    )


def _verdict(outcome: Outcome) -> Text:
    broken = outcome.broken_promises()
    if broken:
        return Text("Not as promised: " + "; ".join(broken) + ".", style="bold red")
    done = "refused" if outcome.mode == "enforce" else "flagged and nobody was refused"
    nobody = " and nobody honest was even flagged" if outcome.mode == "enforce" else ", and nobody honest was flagged"
    return Text(f"As promised: both thieves and the ring were {done}{nobody}.", style="bold green")


def _natural(outcome: Outcome) -> Text:
    """Explains the agreement on natural inputs of each thief who began with their own inputs."""
    text = Text(style="dim")
    for model in outcome.models:
        if (start := model.thief.own_inputs) is not None:
            text.append(
                f"The thief of the {model.model} needs {start.queries} answers to natural inputs of their own for a "
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
