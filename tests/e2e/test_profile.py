"""A service that has a profile: it finds the thief, says by which profile, and its topic is what the next one is of."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE
from detector.contracts.codecs.records import decode
from detector.contracts.findings import Alert
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import calibrate
from detector.core.calibration.traffic import accounts_of
from detector.replay.calibrate import read_topic
from tests.chaos.load import records
from tests.conftest import Broker
from tests.core.honest import crowd, thief
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.e2e.test_service import _rows


def _send(service: Service, queries: QueryBatch, json_share: float) -> None:
    for outgoing in records(queries, PARTITIONS, json_share):
        headers = [("content-type", PACKED_CONTENT_TYPE.encode())] if outgoing.packed else []
        service.producer.send(
            service.topics.queries, outgoing.value, outgoing.key, headers, partition=outgoing.partition
        )
    service.producer.flush()


def test_a_profile_finds_the_thief_alone_and_the_topic_makes_the_next(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    profile = calibrate(crowd(), 0.01).profile
    path = tmp_path / "credit.profile"
    path.write_bytes(profile.to_bytes())
    judged = [*crowd(8, seed=900), thief()]
    setting = {"WEIRGUARD_DETECTION__PROFILES": json.dumps([str(path)])}
    with running_service(broker, prefix, tmp_path, **setting) as service:
        with urllib.request.urlopen(f"{service.worker.url}/readyz", timeout=5) as answer:
            assert json.load(answer)["profiles"] == {"credit 1": profile.hash}
        for number, queries in enumerate(judged):
            _send(service, queries, json_share=number % 2)
        service.read(service.topics.state_log, lambda found: _rows(found) >= sum(map(len, judged)))
        alerts = service.read(service.topics.alerts, lambda found: len(found) >= 2)
        records = [decode(Alert, record.value) for record in alerts]
        assert {(alert.principal, alert.signal, alert.profile, alert.calibrated) for alert in records} == {
            ("mallory", "suspicion", profile.hash, True)
        }
        assert [(alert.revision, alert.severity) for alert in records] == [(1, "medium"), (2, "high")]
        with urllib.request.urlopen(f"{service.worker.url}/readyz", timeout=5) as answer:
            assert json.load(answer)["uncalibrated"] == []
        heard = read_topic(service.kafka, since=0.0)
        assert [own.event_ids for own in accounts_of(heard.pieces)] == [
            own.event_ids for own in sorted(judged, key=lambda own: own.principals)
        ]
        assert read_topic(service.kafka, since=4e9).pieces == []
