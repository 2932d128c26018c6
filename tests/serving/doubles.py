"""A logger that keeps what it is given and a gate that is fed by hand: both without Kafka, both the real classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from detector.contracts.actions import make_action
from detector.contracts.codecs import decision_key, encode
from detector.contracts.findings import Action, ActionName, Decision, Epoch, Mode
from detector.contracts.queries import Count
from detector.serving import Connection, Gate, QueryLogger
from detector.serving.rows import QueuedRows

NOWHERE = Connection("127.0.0.1:9")
"""The discard port: nobody listens."""


def decision(
    action: ActionName,
    *,
    principal: str = "thief",
    model: str = "digits",
    epoch: Epoch = (1, 1),
    mode: Mode = "enforce",
    rate: float | None = None,
    expires_at: float = 1_000.0,
) -> Decision:
    taken = Action(action, rate)
    return Decision("d" * 32, model, principal, taken, mode, epoch, 0.0, expires_at, (), "policy")


def notice(left: float, *, principal: str = "thief", mode: Mode = "enforce") -> Decision:
    """A decision that tells ``principal`` how much of the budget is left."""
    action = make_action("notice", {"left_percent": left})
    return replace(decision("none", principal=principal, mode=mode), action=action)


def record(cached: Decision) -> tuple[bytes, bytes]:
    """Key and value as in the decisions topic."""
    return decision_key(cached.model, cached.principal), encode(cached)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FedGate(Gate):
    """A gate whose decisions topic is a list, read when it is made."""

    def __init__(
        self, decisions: Sequence[Decision] = (), clock: Callable[[], float] | None = None, **settings: Any
    ) -> None:
        super().__init__(NOWHERE, clock=clock or Clock(), **settings)
        self._started = True
        self.contact()
        for one in decisions:
            self.feed(one)

    def contact(self) -> None:
        self._background.note_contact()

    def feed(self, one: Decision) -> None:
        self._table.apply(*record(one))


class KeepingLogger(QueryLogger):
    """A logger without its thread."""

    def __init__(self, max_queries: int = 1_000, max_bytes: int = 1 << 20) -> None:
        super().__init__(NOWHERE, max_queries=max_queries, max_bytes=max_bytes)
        self._started = True
        self.unread: Counter[tuple[str, str]] = Counter()
        """Queries reported as unjudged, by principal and reason."""

    def kept(self) -> list[QueuedRows]:
        return self._queue.take(1 << 40)

    def counts(self) -> list[Count]:
        return self._tallies.take()

    def unjudged_of(self, principal: str) -> int:
        return sum(one.queries for one in self.counts() if (one.principal, one.kind) == (principal, "unjudged"))

    def refusals(self) -> dict[str, int]:
        return {one.principal: one.queries for one in self._tallies.take() if one.kind == "refused"}

    def losses(self) -> dict[str, int]:
        return {one.principal: one.queries for one in self._tallies.take() if one.kind == "dropped"}

    def unjudged(self, principal: str, model: str, queries: int = 1, *, reason: str) -> None:
        self.unread[principal, reason] += queries
        super().unjudged(principal, model, queries, reason=reason)
