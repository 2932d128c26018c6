"""Counters in a metrics library that happens to be there."""

from __future__ import annotations

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
