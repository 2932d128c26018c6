"""A ring over all partitions of a service: found as one, refused as one, and released by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from detector.cli import groups
from detector.contracts.batches import take
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE
from detector.contracts.codecs.records import decode
from detector.contracts.findings import Command, Decision, GroupAlert
from detector.contracts.queries import QueryBatch
from tests.chaos.load import records
from tests.conftest import Broker
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.groups.rings import calibrated, others, ring, stream

STEP = 200


def _send(service: Service, queries: QueryBatch) -> None:

    for start in range(0, len(queries), STEP):
        piece = take(queries, np.arange(start, min(start + STEP, len(queries))))
        for outgoing in records(piece, PARTITIONS, 0.0):
            headers = [("content-type", PACKED_CONTENT_TYPE.encode())]
            service.producer.send(
                service.topics.queries, outgoing.value, outgoing.key, headers, partition=outgoing.partition
            )
        service.producer.flush()


def _latest(found: list[Any]) -> dict[str, GroupAlert]:
    alerts = [decode(GroupAlert, record.value) for record in found]
    return {alert.id: alert for alert in sorted(alerts, key=lambda alert: alert.revision)}


def _actions(found: list[Any], group: str) -> dict[str, str]:
    """The last action against each principal in whose causes ``group`` is, or was."""
    decisions = sorted((decode(Decision, record.value) for record in found if record.value), key=lambda own: own.epoch)
    accused = {
        decision.principal for decision in decisions for cause in decision.causes if cause.origin == f"group:{group}"
    }
    return {decision.principal: decision.action.name for decision in decisions if decision.principal in accused}


def _run(*arguments: str) -> Any:
    result = CliRunner().invoke(groups.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_ring_is_found_refused_and_released_as_one(
    broker: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "credit.profile"
    path.write_bytes(calibrated().to_bytes())
    kafka = {"BOOTSTRAP_SERVERS": broker.bootstrap, "PREFIX": prefix, "PARTITIONS": str(PARTITIONS)}
    kafka |= {"EMBEDDED": str(broker.embedded).lower()}
    for name, value in kafka.items():
        monkeypatch.setenv(f"WEIRGUARD_KAFKA__{name}", value)
    setting = {"WEIRGUARD_DETECTION__PROFILES": json.dumps([str(path)])}
    with running_service(broker, prefix, tmp_path, **setting) as service:
        _send(service, stream([*others(30), *ring(12, 240)]))
        found = service.read(
            service.topics.groups, lambda found: max([own.size for own in _latest(found).values()], default=0) >= 10
        )
        group = max(_latest(found).values(), key=lambda own: own.size)
        members = {member.principal for member in group.members}
        assert sum(name.startswith("ring") for name in members) >= 10
        assert sum(name.startswith("honest") for name in members) <= 1
        decided = service.read(
            service.topics.decisions, lambda found: len(_actions(found, group.id)) >= 0.8 * group.size
        )
        records = [decode(Command, own.value) for own in service.read(service.topics.commands, bool)]
        assert {own.family for own in records if own.kind == "join"} <= {"content", "structure", "outputs"}
        assert set(_actions(decided, group.id)) <= members | {f"ring-{at:03}" for at in range(12)}
        assert service.metric("weirguard_group_alerts_total") >= 1

        (listed,) = [own for own in json.loads(_run("list", "--json")) if own["id"] == group.id]
        assert listed["size"] >= 10
        shown = _run("show", group.id[:6])
        assert "under a verdict" in shown
        assert "ring-0" in shown
        assert "are released" in _run("dismiss", group.id, "--reason", "a test", "--issuer", "alice")
        assert "dismissed by alice" in _run("show", group.id)
