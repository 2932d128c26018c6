"""What is odd in a source or a state log is counted, and said once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import structlog

from detector.contracts.findings import Action, Command
from detector.policy.accounting import PrincipalCounts
from detector.runtime.health import QUIET_SECONDS, Health
from detector.runtime.metrics import Metrics, new_metrics
from detector.stream.partition_manager import apply_together
from detector.stream.poison import Quarantine
from detector.stream.reporter import Reporter
from detector.stream.source_records import FetchState
from tests.stream.world import World, command, new_partition, queries, source


class Rig:
    """A reporter with its metrics and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.metrics: Metrics = new_metrics(5)
        self.health = Health(lambda: self.now, 60.0)
        self.reporter = Reporter(self.health, self.metrics, lambda: 2.0)

    def value(self, series: str) -> float:
        lines = self.metrics.render().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"weirguard_{series} ")).rsplit(" ", 1)[1])


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_gaps_and_what_they_lost_are_counted(rig: Rig) -> None:
    rig.reporter.passed_gap("queries", 0)
    rig.reporter.passed_gap("queries", 7)
    assert rig.value('source_gaps_total{topic="queries"}') == 2
    assert rig.value('source_records_lost_total{topic="queries"}') == 7
    assert rig.value('source_records_lost_total{topic="commands"}') == 0, "there from the start, for the alert's sake"


def test_times_that_are_not_believed_are_counted_and_said_once_of_each_kind(rig: Rig) -> None:
    with structlog.testing.capture_logs() as said:
        for _ in range(3):
            rig.reporter.time_replaced("future", "a.queries", 5.0)
            rig.reporter.time_replaced("absent", "a.queries", None)
    assert len(said) == 2
    assert rig.value('record_times_clamped_total{fault="future"}') == 3


def test_what_recovery_left_out_is_counted(rig: Rig) -> None:
    partition: Any = SimpleNamespace(
        cursor=SimpleNamespace(stale_records=3), detector=SimpleNamespace(engine=SimpleNamespace(skipped_sections=2))
    )
    rig.reporter.restored(partition)
    assert rig.value("state_log_stale_records_total") == 3
    assert rig.value("state_log_skipped_sections_total") == 2


def test_what_waits_is_told_only_while_brokers_are_heard(rig: Rig) -> None:
    partition = World(source(queries(40, 1), [20, 20])).take_over()
    rig.reporter.broker_answered(1.0, connected=True)
    rig.reporter.survey([partition], {("queries", 0): FetchState(9, 0, -1, 1.0)}, {})
    assert rig.health.records_behind == 9
    rig.now += QUIET_SECONDS
    rig.reporter.broker_answered(1.0, connected=True)
    rig.reporter.survey([partition], {("queries", 0): FetchState(12, 0, -1, 1.0)}, {})
    assert rig.health.records_behind == 9, "an old answer is no news"
    assert rig.value('records_behind{partition="0",topic="queries"}') == 12


def test_the_state_that_is_counted_has_suspects_and_accounts_of_unjudged_queries(rig: Rig) -> None:
    partition = World(source(queries(40, 1), [20, 20])).take_over()
    ledger, order = partition.detector.ledger, Action("refuse")
    rig.reporter.survey([partition], {}, {})
    before = rig.value("state_bytes")
    ledger.command(Command("c1", "add", 0.0, "eve", "m", "ana", "why", action=order, duration_seconds=60.0), 0.0)
    rig.reporter.survey([partition], {}, {})
    assert rig.value("state_bytes") - before == ledger.nbytes > 0
    ledger.accounting.absorb((1, msgspec.msgpack.encode((1, [("m", "bo", PrincipalCounts({"empty": 1}))], []))))
    rig.reporter.survey([partition], {}, {})
    assert rig.value("state_bytes") - before == ledger.nbytes + ledger.accounting.nbytes > ledger.nbytes


def test_decoding_is_timed_apart_from_judging() -> None:
    partition = World(source(queries(40, 1), [40])).take_over()
    records = source(queries(40, 1), [40])
    done, decoding = apply_together([(partition, [command(0, b"{}")]), (partition, records)], Quarantine())
    assert [step.kind for _, _, step in done] == ["delta", "delta"]
    assert decoding > 0
    assert apply_together([(new_partition(), records)], Quarantine())[0] == [], (
        "what is not ours any more is left alone"
    )
