"""Under load the gate loses its broker or its consumer: calls go on, and each model is open or closed as configured."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from detector.contracts.topics import Topics
from detector.runtime.broker import EmbeddedBroker
from detector.serving import Connection, Gate
from tests.serving.arrivals import LATER, create_topics, tell, until
from tests.serving.doubles import decision

STALE_SECONDS = 1.5
THREADS = 2
PRINCIPALS = ("thief", "honest")
MODELS = ("digits", "credit")


@dataclass(frozen=True)
class WatchedConnection(Connection):
    """A connection whose consumers a test can reach."""

    consumers: list[Any] = field(default_factory=list, repr=False)

    def consumer(self, **more: Any) -> Any:
        made = super().consumer(**more)
        self.consumers.append(made)
        return made


@contextmanager
def load(gate: Gate) -> Iterator[Counter[tuple[str, str, str, bool]]]:
    """Threads that check without a pause; gives how often each (model, principal, action, stale) came."""
    seen: Counter[tuple[str, str, str, bool]] = Counter()
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            for model in MODELS:
                for principal in PRINCIPALS:
                    verdict = gate.check(model, principal)
                    seen[model, principal, verdict.action, verdict.stale] += 1

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(20)


def _frozen(_: EmbeddedBroker, consumer: Any) -> Callable[[], None]:
    """No call of the consumer returns until it is thawed."""
    thawed = threading.Event()
    poll, consumer.poll = consumer.poll, lambda **given: thawed.wait() and poll(**given)
    return thawed.set


def _killed(broker: EmbeddedBroker, _: Any) -> Callable[[], None]:
    broker.kill()
    return broker.start


@pytest.mark.parametrize("lose", [_killed, _frozen])
def test_what_is_lost_for_long_leaves_each_model_open_or_closed_until_it_is_back(lose: Any, prefix: str) -> None:
    with EmbeddedBroker() as broker, _gate(broker, prefix) as (connection, gate), load(gate) as seen:
        assert until(lambda: seen["credit", "thief", "refuse", False] > 0)
        bring_back = lose(broker, connection.consumers[-1])
        assert until(lambda: seen["credit", "honest", "refuse", True] > 0)
        assert gate.gauges()["age_seconds"] > STALE_SECONDS
        seen.clear()
        assert until(lambda: seen.total() > 10_000)
        expected = {("digits", one, "none", True) for one in PRINCIPALS}
        answers = seen.copy()
        stale = {answer: times for answer, times in answers.items() if answer[3]}
        assert stale.keys() == expected | {("credit", one, "refuse", True) for one in PRINCIPALS}
        assert answers.total() - sum(stale.values()) <= THREADS, "each thread may have had one answer from before"
        bring_back()
        create_topics(connection)
        tell(connection, *(decision("refuse", model=model, epoch=(2, 1), expires_at=LATER) for model in MODELS))
        assert until(lambda: seen["digits", "thief", "refuse", False] > 0)
        assert until(lambda: gate.gauges()["age_seconds"] < STALE_SECONDS)
        assert until(lambda: seen["credit", "honest", "none", False] > 0)


def test_a_consumer_that_ends_is_replaced_before_anybody_notices(prefix: str) -> None:
    with EmbeddedBroker() as broker, _gate(broker, prefix, 60.0) as (connection, gate), load(gate) as seen:
        connection.consumers[-1].close()
        assert until(lambda: len(connection.consumers) == 2)
        tell(connection, decision("none", model="digits", epoch=(2, 1), expires_at=LATER))
        assert until(lambda: gate.check("digits", "thief").allowed)
        assert not any(stale for *_, stale in seen)
        assert gate.counters.snapshot()["failures"] > 0


@contextmanager
def _gate(
    broker: EmbeddedBroker, prefix: str, stale_seconds: float = STALE_SECONDS
) -> Iterator[tuple[WatchedConnection, Gate]]:
    """A gate that knows of the thief, closed for credit without current decisions."""
    connection = WatchedConnection(broker.bootstrap, Topics(prefix))
    create_topics(connection)
    tell(connection, *(decision("refuse", model=model, expires_at=LATER) for model in MODELS))
    with Gate(connection, max_staleness_seconds=stale_seconds, when_stale={"credit": "refuse"}) as gate:
        assert gate.wait_until_ready(20)
        yield connection, gate
