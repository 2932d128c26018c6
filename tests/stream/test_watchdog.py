"""The watchdog: stops what is stuck, and nothing else."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from detector.runtime.health import Health
from detector.runtime.metrics import new_metrics
from detector.stream.exit_codes import Exit
from detector.stream.reporter import Reporter
from detector.stream.watchdog import CUT_OFF_SECONDS, RECOVERY_SECONDS, Watchdog, watch


class Rig:
    """A watchdog whose clock, commits and broker the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.committed: dict[tuple[str, int], int] = {}
        self.broker = True
        self.connected = True
        self.fetched_at: float | None = None
        self.reporter = Reporter(Health(lambda: self.now, 60.0), new_metrics(5))
        self.watchdog = Watchdog(self.reporter, lambda: self.committed, lambda: self.broker, 60.0)

    def verdict(self, after: float) -> Exit | None:
        self.now += after
        self.reporter.broker_answered(self.fetched_at, self.connected)
        found = self.watchdog.verdict(self.now)
        return found[0] if found else None


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.reporter.assigned([0, 1])
    return rig


def test_recovery_that_reads_is_left_alone_and_one_that_stands_still_is_stopped(rig: Rig) -> None:
    for _ in range(10):
        assert rig.verdict(RECOVERY_SECONDS - 1) is None
        rig.reporter.health.absorbed()
    assert rig.verdict(RECOVERY_SECONDS + 1) is Exit.RECOVERY_STALLED


def test_a_broker_that_is_away_is_no_reason(rig: Rig) -> None:
    rig.broker = False
    assert rig.verdict(1000) is None


def test_brokers_that_are_gone_are_looked_for_anew_once_the_bootstrap_servers_answer(rig: Rig) -> None:
    rig.reporter.recovered(2)
    rig.connected = rig.broker = False
    assert [rig.verdict(100), rig.verdict(CUT_OFF_SECONDS - 1)] == [None, None]
    assert [rig.verdict(2), rig.verdict(1000)] == [None, None], "nobody answers anywhere: a restart would not help"
    rig.broker = True
    assert rig.verdict(1) is Exit.BROKER


def test_a_broker_that_is_there_and_has_nothing_to_read_is_no_reason(rig: Rig) -> None:
    rig.reporter.recovered(2)
    rig.fetched_at = 5.0  # and then no more: partitions without a leader
    assert [rig.verdict(CUT_OFF_SECONDS) for _ in range(20)] == [None] * 20
    assert not rig.reporter.health.ready().ok


def test_a_quiet_worker_is_left_alone(rig: Rig) -> None:
    rig.reporter.recovered(2)
    assert rig.verdict(100_000) is None


def test_records_that_wait_without_progress_stop_the_worker(rig: Rig) -> None:
    rig.reporter.recovered(2)
    verdict = None
    for _ in range(8):
        rig.reporter.health.behind(10)
        verdict = rig.verdict(10) or verdict
    assert verdict is Exit.PROGRESS_STALLED


def test_a_commit_that_stands_still_behind_what_is_applied_stops_the_worker(rig: Rig) -> None:
    rig.reporter.recovered(2)
    rig.reporter.applied["queries", 0] = 9
    rig.committed["queries", 0] = 5
    assert rig.verdict(1) is None
    rig.committed["queries", 0] = 7
    assert [rig.verdict(40), rig.verdict(40), rig.verdict(40)] == [None, None, Exit.PROGRESS_STALLED]


def test_a_commit_that_follows_is_left_alone(rig: Rig) -> None:
    rig.reporter.recovered(2)
    for offset in range(10):
        rig.reporter.applied["queries", 0] = offset + 1
        rig.committed["queries", 0] = offset
        assert rig.verdict(50) is None


def test_a_worker_that_the_group_never_assigns_stops() -> None:
    rig = Rig()
    assert [rig.verdict(50), rig.verdict(50)] == [None, Exit.PROGRESS_STALLED]


def test_a_worker_that_was_told_to_stop_is_left_to_it(rig: Rig) -> None:
    rig.reporter.health.stopped("it was asked to")
    assert rig.verdict(1000) is None


def test_the_watchdog_survives_what_goes_wrong_in_it_and_says_so_once(rig: Rig) -> None:
    rig.reporter.recovered(2)
    rig.reporter.applied["queries", 0] = 9
    asked: list[int] = []
    done = threading.Event()
    stops: list[Exit] = []

    def committed() -> dict[tuple[str, int], int]:
        asked.append(1)
        if len(asked) < 3:
            raise RuntimeError("the consumer is being rebuilt")
        done.set()
        return {}

    watch(replace(rig.watchdog, committed=committed), lambda code, _: stops.append(code))
    assert done.wait(30)
    assert b'weirguard_internal_errors_total{where="watchdog"} 2.0' in rig.reporter.metrics.render()
    assert stops == []
