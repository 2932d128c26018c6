"""Liveness and readiness, told by a clock in the test's hand."""

from __future__ import annotations

import pytest

from detector.runtime.health import QUIET_SECONDS, Health


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock, stall_seconds=60)


def _running(health: Health) -> None:
    health.assigned(2)
    health.recovered(2)


def test_not_ready_until_assigned_and_restored(health: Health) -> None:
    assert health.ready().why == "no assignment yet"
    health.assigned(2)
    health.recovered(1)
    assert health.ready().why == "state of 1 of 2 partitions restored"
    health.recovered(2)
    assert health.ready().ok


def test_a_spare_worker_without_partitions_is_ready(health: Health) -> None:
    health.assigned(0)
    assert health.ready().ok


def test_a_rebalance_makes_a_worker_unready_until_restored(health: Health) -> None:
    _running(health)
    health.assigned(2)
    assert not health.ready().ok
    assert health.live().ok


def test_an_idle_worker_lives(health: Health, clock: Clock) -> None:
    _running(health)
    for _ in range(100):
        clock.now += 10
        health.behind(0)
    assert health.live().ok


def test_event_time_that_stands_still_while_records_wait_is_death(health: Health, clock: Clock) -> None:
    _running(health)
    health.applied(5.0)
    for records in range(1, 7):
        assert health.live().ok
        health.behind(records)
        clock.now += 10
    assert health.live().why == "6 records wait and none was applied for 60 s"


def test_progress_however_slow_is_life(health: Health, clock: Clock) -> None:
    _running(health)
    for step in range(100):
        clock.now += 50
        health.behind(1_000_000 + step)
        health.applied(float(step))
        assert health.live().ok


def test_lag_that_begins_late_is_timed_from_its_beginning(health: Health, clock: Clock) -> None:
    _running(health)
    clock.now += 3600
    health.behind(10)
    assert health.live().ok
    clock.now += 59
    health.behind(10)
    assert health.live().ok
    clock.now += 1
    assert not health.live().ok


def test_a_silent_broker_is_no_reason_to_die(health: Health, clock: Clock) -> None:
    _running(health)
    health.behind(10)
    clock.now += 3600
    assert health.live().ok


def test_a_worker_whose_brokers_do_not_answer_is_not_ready_and_lives(health: Health, clock: Clock) -> None:
    _running(health)
    health.behind(7)
    clock.now += QUIET_SECONDS - 1
    assert health.ready().ok
    clock.now += 100
    probe = health.ready()
    assert not probe.ok
    assert probe.why == "the brokers that this worker knows have not answered for 114 s"
    assert health.live().ok, "it is not the worker's fault"
    health.contacted(answered=False, connected=True)
    assert not health.ready().ok
    health.contacted(answered=True, connected=True)
    assert health.ready().ok


def test_a_recovery_that_stands_still_is_death_and_one_that_moves_is_not(health: Health, clock: Clock) -> None:
    health.assigned(1)
    for _ in range(10):
        clock.now += 50
        health.absorbed()
    assert health.live().ok
    clock.now += 60
    assert "not restored" in health.live().why


def test_a_stopped_worker_says_why(health: Health) -> None:
    _running(health)
    health.stopped("state-log-hole")
    assert health.live().why == health.ready().why == "stopped: state-log-hole"
    assert not health.live().ok


def test_event_time_never_goes_back(health: Health) -> None:
    health.applied(9.0)
    health.applied(3.0)
    assert health.event_time == 9.0
