"""What gates report over a broker, and what an operator reads of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from detector.cli.gate import list_, state
from detector.contracts.findings import GateReport
from detector.replay.topics import read_gates
from detector.runtime.sections import KafkaSettings
from detector.runtime.settings import Settings
from detector.serving import Connection, Gate
from tests.serving.arrivals import LATER, tell, until
from tests.serving.doubles import NOWHERE, FedGate, decision

OFTEN = 0.2


@pytest.fixture
def kafka(connection: Connection) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=connection.bootstrap_servers, embedded=True, prefix=connection.topics.prefix, partitions=4
    )


def test_a_gate_reports_while_it_runs_and_at_its_end(connection: Connection, kafka: KafkaSettings) -> None:
    tell(connection, decision("refuse", expires_at=LATER))
    with Gate(connection, report_seconds=OFTEN) as gate:
        assert gate.wait_until_ready(20)
        gate.check("digits", "thief")
        assert until(lambda: gate.counters.snapshot()["reported"] >= 2)
        (running,) = read_gates(kafka)
        assert running.running
        assert (running.known, running.counts["refused"]) == (1, 1)
        assert running.stale_seconds is not None
        gate.check("digits", "honest")
        gate.close(10)
    (last,) = read_gates(kafka)
    assert not last.running
    assert (last.gate, last.counts["allowed"]) == (running.gate, 1)


def test_each_gate_is_listed_with_its_state_and_closed_ones_on_request(
    connection: Connection, kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("detector.cli.gate.load_settings", lambda _: Settings(kafka=kafka))
    list_()
    assert "No gate has reported" in capsys.readouterr().out
    with Gate(connection, report_seconds=60.0) as closed:
        assert closed.wait_until_ready(20)
        closed.close(10)
    with Gate(connection, report_seconds=OFTEN) as gate:
        assert gate.wait_until_ready(20)
        gate.responses.add("round", 3)
        assert until(lambda: gate.counters.snapshot()["reported"] >= 2)
        list_()
        text = capsys.readouterr().out
        assert gate.report().gate in text
        assert "round 3" in text
        assert closed.report().gate not in text
        list_(everything=True, json=True)
    states = {one["gate"]: one["state"] for one in json.loads(capsys.readouterr().out)}
    assert states == {gate.report().gate: "current", closed.report().gate: "closed"}


def test_without_a_broker_or_its_topic_a_gate_ends_in_time_and_counts_what_it_could_not_report() -> None:
    with Gate(NOWHERE, report_seconds=0.01) as gate:
        assert until(lambda: gate.counters.snapshot()["unreported"] > 0)
        assert gate.check("digits", "anyone").allowed


@pytest.mark.parametrize(
    ("change", "now", "expected"),
    [
        ({}, 190.0, "current"),
        ({}, 191.0, "silent for 91 s"),
        ({"running": False}, 1_000.0, "closed"),
        ({"stale_seconds": 60.5}, 101.0, "stale: allow *, refuse credit"),
        ({"stale_seconds": None}, 101.0, "never in contact: allow *, refuse credit"),
    ],
)
def test_the_state_of_a_gate(change: dict[str, Any], now: float, expected: str) -> None:
    report: GateReport = FedGate(when_stale={"credit": "refuse"}).report()
    assert state(replace(report, **change), now) == expected
