"""Logger and gate through several lives in one process, and through whatever is raised in their threads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from detector.serving import Connection, Gate, QueryLogger
from tests.serving.arrivals import LATER, received, rows_of, tell, until
from tests.serving.doubles import NOWHERE, KeepingLogger, decision


def test_what_is_started_again_after_its_end_goes_on(connection: Connection) -> None:
    logger, gate = QueryLogger(connection), Gate(connection, max_staleness_seconds=3.0)
    for life in range(1, 4):
        logger.start()
        gate.start()
        assert gate.wait_until_ready(20)
        tell(connection, decision("refuse" if life % 2 else "none", epoch=(1, life), expires_at=LATER))
        assert until(lambda odd=life % 2: gate.check("digits", "thief").allowed != odd)  # type: ignore[misc]
        logger.log("p", "digits", "1", [1.0], [1.0])
        logger.close(20)
        gate.close()
        assert logger.snapshot()["sent"] == life
    assert logger.snapshot()["dropped"] == 0
    assert rows_of(received(connection, lambda records: rows_of(records) >= 3)) == 3


def test_between_two_lives_queries_are_counted_as_dropped_and_that_is_said_once(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    logger = QueryLogger(connection)
    logger.close()
    for _ in range(3):
        logger.log("p", "digits", "1", [1.0], [1.0])
    assert (logger.snapshot()["dropped"], logger.snapshot()["queued"]) == (3, 0)
    assert len([line for line in caplog.records if "closed" in line.message]) == 1
    logger.start()
    logger.log("p", "digits", "1", [1.0], [1.0])
    logger.close(20)
    counts = received(connection, lambda records: any(decoded.counts for decoded in records))
    assert [(one.kind, one.queries, one.reason) for decoded in counts for one in decoded.counts] == [
        ("dropped", 3, "closed")
    ]
    assert logger.snapshot()["sent"] == 1


def test_closing_twice_and_starting_twice_are_nothing_special() -> None:
    logger, gate = QueryLogger(NOWHERE), Gate(NOWHERE)
    for one in (logger, gate):
        one.close(0.1)
        one.close(0.1)
        one.start()
        one.start()
        one.close(0.1)


class _Fault(BaseException):
    """As gevent and asyncio raise to end a task: no Exception."""


class _FaultyConnection(Connection):
    """Fails a few times before it connects."""

    __slots__ = ("_faults",)

    def __init__(self, connection: Connection, *faults: BaseException) -> None:
        super().__init__(connection.bootstrap_servers, connection.topics)
        object.__setattr__(self, "_faults", list(faults))

    def producer(self) -> Any:
        self._raise()
        return super().producer()

    def consumer(self, **more: Any) -> Any:
        self._raise()
        return super().consumer(**more)

    def _raise(self) -> None:
        faults: list[BaseException] = object.__getattribute__(self, "_faults")
        if faults:
            raise faults.pop()


@pytest.fixture
def broken_log() -> Iterator[None]:
    """Whoever logs a warning of ours gets an exception for it."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise _Fault

    ours, handler = logging.getLogger("detector.serving"), Raising()
    ours.addHandler(handler)
    yield
    ours.removeHandler(handler)


@pytest.mark.usefixtures("broken_log")
def test_the_threads_outlive_what_is_raised_in_them_and_a_log_that_is_broken(connection: Connection) -> None:
    tell(connection, decision("refuse", expires_at=LATER))
    logger = QueryLogger(_FaultyConnection(connection, _Fault(), RuntimeError(), MemoryError()))
    gate = Gate(_FaultyConnection(connection, _Fault(), RuntimeError(), MemoryError()))
    logger.log("p", "digits", "1", [1.0], [1.0])
    assert gate.wait_until_ready(20)
    assert until(lambda: logger.snapshot()["sent"] == 1)
    assert (logger.snapshot()["failures"], gate.snapshot()["failures"]) == (3, 3)
    assert not gate.check("digits", "thief").allowed
    logger.close()
    gate.close()


@pytest.mark.usefixtures("broken_log")
def test_a_log_that_is_broken_breaks_no_caller() -> None:
    logger = KeepingLogger()
    logger.log("p", "m", "1", "no", "no")
    logger.refused("p", "m", queries=-1)
    logger.unjudged("p", "m", queries=-1, reason="x")
    assert logger.snapshot()["invalid"] == 3
