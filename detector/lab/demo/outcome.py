"""What a demo run came to, and whether that is what was promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from detector.contracts.findings import Alert, Mode
from detector.lab.fidelity import Fidelity

_MOST_FAILED = 0.01


@dataclass(frozen=True, slots=True)
class Promise:
    """A thief is flagged by ``signal``, and refused before ``query`` of his."""

    signal: str
    query: int


@dataclass(frozen=True, slots=True)
class Leaves:
    """Of a tree with ``of`` leaves, how many the thief had seen when he was ``flagged``, and in the ``end``; and after
    how many queries he sees all where nobody stops him."""

    flagged: int | None
    end: int
    of: int
    unhindered: int


@dataclass(frozen=True, slots=True)
class ThiefOutcome:
    """Query numbers count from 1 and include those turned away; None for what did not happen.

    ``alert``: what made him a suspect. ``slowed_at``: the first query turned away. ``refused_at``: the first one turned
    away after which none was answered any more. ``latency_seconds``: from the answer to the query that made him a
    suspect to a gate that obeys the decision. ``hindered``: his clone from what he got; ``unhindered``: the same
    thief's from his whole budget. ``exposure``: what the meters read in the end, in percent, by meter.
    """

    sent: int
    answered: int
    alert: Alert | None
    slowed_at: int | None
    refused_at: int | None
    latency_seconds: float | None
    hindered: Fidelity
    unhindered: Fidelity
    leaves: Leaves | None = None
    exposure: Mapping[str, float] = field(default_factory=dict)

    @property
    def flagged_at(self) -> int | None:
        """The query that made him a suspect."""
        return None if self.alert is None else self.alert.query_index + 1


@dataclass(frozen=True, slots=True)
class HonestOutcome:
    """One honest account. ``most``: the largest suspicion that was published of it; 1 makes a suspect."""

    account: str
    habit: str
    answered: int
    refused: int
    flagged: bool
    most: float | None


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """What happened to one ``model``. ``theft``: what its thief did, in words."""

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
        """A sentence for each way in which this differs from what was promised of the model."""
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
    """All of it. ``seconds`` of traffic, in which ``queries`` were sent and ``failed`` got no proper answer."""

    mode: Mode
    seconds: float
    queries: int
    failed: int
    models: tuple[ModelOutcome, ...]

    def broken_promises(self) -> list[str]:
        """A sentence for each way in which this differs from what the demo promises."""
        broken = [f"{own.model}: {sentence}" for own in self.models for sentence in own.broken_promises(self.mode)]
        if self.failed > _MOST_FAILED * self.queries:
            broken.append(f"{self.failed:,} of {self.queries:,} queries failed")
        return broken
