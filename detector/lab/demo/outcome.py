"""The outcome of a demo run, and whether it is what the demo promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from detector.contracts.findings import Alert, Mode
from detector.lab.fidelity import Fidelity

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
