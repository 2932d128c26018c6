"""The explanation from a running service's topics gives the service's own verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from detector.cli.explain import PAGE, explain
from detector.contracts.codecs.records import decode
from detector.contracts.findings import Alert
from detector.core.calibration.calibrate import calibrate
from tests.conftest import Broker
from tests.core.honest import crowd, thief
from tests.e2e.service import running_service
from tests.e2e.test_profile import _send


def test_the_topics_give_the_verdict_of_the_service(
    broker: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "credit.profile"
    path.write_bytes(calibrate(crowd(), 0.01).profile.to_bytes())
    setting = {"WEIRGUARD_DETECTION__PROFILES": json.dumps([str(path)])}
    with running_service(broker, prefix, tmp_path, **setting) as service:
        for queries in (*crowd(3, seed=900), thief()):
            _send(service, queries, json_share=0.5)
        service.read(service.topics.audit, lambda audits: len(audits) >= 2)
        alert, higher = (
            decode(Alert, record.value) for record in service.read(service.topics.alerts, lambda found: len(found) >= 2)
        )
        for name, value in service.kafka.model_dump(include={"bootstrap_servers", "prefix", "embedded"}).items():
            monkeypatch.setenv(f"WEIRGUARD_KAFKA__{name.upper()}", str(value))
        app = typer.Typer()
        app.command()(explain)
        arguments = ["mallory", "--profile", str(path), "--out", str(tmp_path)]
        text = " ".join(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout.split())
    assert f"Suspect since query {alert.query_index + 1} of 120: " in text
    assert "refuse (enforce) for signal:suspicion" in text
    assert "another configuration" not in text
    assert f"{alert.query_index + 1}: suspect, alert, slow" in (tmp_path / PAGE).read_text("utf-8")
    assert (higher.id, higher.revision, higher.severity) == (alert.id, 2, "high")
    assert "alert: suspicion, severity rises to high" in text
