"""Counters in a metrics library that happens to be there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from detector.serving import Identity, export_metrics
from tests.serving.doubles import FedGate, KeepingLogger, decision


def test_every_counter_and_gauge_is_exported_as_it_stands_at_the_scrape() -> None:
    logger, gate, identity, registry = KeepingLogger(), FedGate([decision("refuse")]), Identity(), CollectorRegistry()
    export_metrics(logger, gate, identity, registry=registry)
    gate.check("digits", "thief")
    logger.log("p", "m", "1", [1.0], [1.0])
    identity.principal({})
    text = generate_latest(registry).decode()
    assert "weirguard_sdk_gate_refused_total 1.0" in text
    assert "weirguard_sdk_gate_decisions 1.0" in text
    assert "weirguard_sdk_logger_queued 1.0" in text
    assert "weirguard_sdk_identity_anonymous_total 1.0" in text
    for measured in (logger, gate, identity):
        for name in (*measured.counters.snapshot(), *measured.gauges()):
            assert f"weirguard_sdk_{measured.NAME}_{name}" in text


_MULTIPROCESS = """
import os, sys
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from detector.serving import Gate, QueryLogger, export_metrics
from tests.serving.doubles import NOWHERE

logger, gate, other = QueryLogger(NOWHERE), Gate(NOWHERE), QueryLogger(NOWHERE)
logger.log("p", "m", "1", [1.0], [1.0])
export_metrics(logger, gate)
export_metrics(other)
for rows in (3, 5):
    if not os.fork():
        logger.log("p", "m", "1", [[1.0]] * rows, [[1.0]] * rows)
        gate.check("m", "p")
        os._exit(0)
    os.wait()
logger.unjudged("p", "m", 7, reason="too-large")
other.log("p", "m", "1", [1.0], [1.0])
registry = CollectorRegistry()
MultiProcessCollector(registry)
sys.stdout.write(generate_latest(registry).decode())
sys.stdout.flush()
os._exit(0)
"""


def test_in_multiprocess_mode_the_counters_of_all_processes_are_added_up(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", _MULTIPROCESS], env=environment, capture_output=True, text=True, check=False
    )
    lines = [line.split() for line in run.stdout.splitlines() if not line.startswith("#")]
    assert lines, run.stderr
    totals = {name: float(value) for name, value in lines if "{" not in name}
    assert totals["weirguard_sdk_logger_logged_total"] == 1 + 3 + 5 + 1
    assert totals["weirguard_sdk_logger_unjudged_total"] == 7
    assert totals["weirguard_sdk_gate_stale_allowed_total"] == 2
    assert totals["weirguard_sdk_gate_ready"] == 0
    assert "weirguard_sdk_logger_queued" in totals


def test_a_folder_of_the_multiprocess_mode_that_is_not_there_is_named(tmp_path: Path) -> None:
    script = """
from detector.contracts.errors import ConfigurationError
from detector.serving import Identity, export_metrics
try:
    export_metrics(Identity())
except ConfigurationError as error:
    raise SystemExit(str(error))
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "nowhere")}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert "correct PROMETHEUS_MULTIPROC_DIR" in run.stderr
