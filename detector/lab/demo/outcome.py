"""What a demo run came to, and whether that is what was promised."""

from __future__ import annotations

from dataclasses import dataclass

from detector.contracts.findings import Mode
from detector.lab.fidelity import Fidelity

PROMISED_QUERY = 400
"""The thief is refused before this query of his."""

_MOST_FAILED = 0.01


@dataclass(frozen=True, slots=True)
class ThiefOutcome:
    """Query numbers count from 1 and include those turned away; None for what did not happen.

    ``flagged_at``: the query that made him a suspect. ``slowed_at``: the first one turned away. ``refused_at``:
    the first one turned away after which none was answered any more. ``latency_seconds``: from the answer
    to the query that made him a suspect to a gate that obeys the decision. ``hindered``: his clone from what he
    got; ``unhindered``: the same thief's from his whole budget.
    """

    sent: int
    answered: int
    flagged_at: int | None
    slowed_at: int | None
    refused_at: int | None
    latency_seconds: float | None
    hindered: Fidelity
    unhindered: Fidelity


@dataclass(frozen=True, slots=True)
class HonestOutcome:
    """One honest account. ``least_statistic``: the lowest W that was published of it."""

    account: str
    habit: str
    answered: int
    refused: int
    flagged: bool
    least_statistic: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of it. ``seconds`` of traffic, in which ``queries`` were sent and ``failed`` got no proper answer."""

    mode: Mode
    seconds: float
    queries: int
    failed: int
    thief: ThiefOutcome
    honest: tuple[HonestOutcome, ...]

    @property
    def honest_flagged(self) -> list[str]:
        return [account.account for account in self.honest if account.flagged]

    @property
    def honest_refused(self) -> list[str]:
        return [account.account for account in self.honest if account.refused]

    def broken_promises(self) -> list[str]:
        """A sentence for each way in which this differs from what the demo promises."""
        enforced = self._unenforced_promises() if self.mode == "observe" else self._enforced_promises()
        return [*enforced, *self._promises_of_any_run()]

    def _enforced_promises(self) -> list[str]:
        refused_at = self.thief.refused_at
        if refused_at is None:
            return [f"the thief was never refused in {self.thief.sent:,} queries"]
        if refused_at >= PROMISED_QUERY:
            return [f"the thief was refused at his query {refused_at:,}, not before his query {PROMISED_QUERY}"]
        return []

    def _unenforced_promises(self) -> list[str]:
        if self.thief.slowed_at is not None:
            return ["the thief was turned away though nothing was to be enforced"]
        return []

    def _promises_of_any_run(self) -> list[str]:
        broken = []
        if self.thief.flagged_at is None:
            broken.append("the thief was never flagged")
        if self.honest_refused:
            broken.append(f"honest accounts were refused: {', '.join(self.honest_refused)}")
        if silent := [account.account for account in self.honest if not account.answered]:
            broken.append(f"honest accounts got no answer at all: {', '.join(silent)}")
        if self.failed > _MOST_FAILED * self.queries:
            broken.append(f"{self.failed:,} of {self.queries:,} queries failed")
        return broken
