"""Queries as people log them through the service: in JSON, and by the SDK, which packs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from detector.contracts.codecs.records import decode
from detector.contracts.findings import Alert
from detector.contracts.topics import partition_of
from detector.core.calibration.traffic import learn
from detector.replay.calibrate import CalibrationOptions, make_profile, read_files, read_topic
from detector.serving import QueryLogger
from tests.conftest import Broker
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.e2e.test_service import _rows
from tests.sources.logged_forms import (
    FEATURES,
    OUTPUTS,
    LoggedAccount,
    customers,
    image_thieves,
    readers,
    table_thieves,
    write_log,
)


def _send(service: Service, folder: Path, asked: Sequence[LoggedAccount], features: str, outputs: str) -> None:
    """One query a record, keyed by the account as any producer would."""
    write_log(folder / "sent.jsonl", asked, features, outputs)
    for line in (folder / "sent.jsonl").read_bytes().splitlines():
        principal = json.loads(line)["principal"]
        home = partition_of(principal, PARTITIONS)
        service.producer.send(service.topics.queries, line, principal.encode(), partition=home)
    service.producer.flush()


def _log(service: Service, asked: Sequence[LoggedAccount], features: str, outputs: str) -> None:
    with QueryLogger(service.connection) as logger:
        for own in asked:
            for at, (row, told) in enumerate(zip(own.rows, own.told, strict=True)):
                said = OUTPUTS[outputs](told, own.classes)["outputs"]
                logger.log(own.account, "m", "1", FEATURES[features](row, at), said)
    assert logger.snapshot()["sent"] == sum(len(own.rows) for own in asked)


@pytest.mark.parametrize(
    ("features", "outputs"),
    [("by name", "one probability"), ("numbers, texts one-hot", "the best three classes")],
)
def test_thieves_alone_are_found_and_the_topic_makes_the_same_form(
    features: str, outputs: str, broker: Broker, prefix: str, tmp_path: Path
) -> None:
    of_table = features == "by name"
    honest, others = (customers(12, 1), customers(4, 2)) if of_table else (readers(16, 1, 60), readers(4, 2, 60))
    thieves = table_thieves(3, 60) if of_table else image_thieves(3, 200)
    write_log(tmp_path / "honest.jsonl", honest, features, outputs)
    profile = make_profile(read_files([tmp_path / "honest.jsonl"], lambda _: None), CalibrationOptions(0.01)).profile
    (tmp_path / "m.profile").write_bytes(profile.to_bytes())
    setting = {"WEIRGUARD_DETECTION__PROFILES": json.dumps([str(tmp_path / "m.profile")])}
    with running_service(broker, prefix, tmp_path, **setting) as service:
        _send(service, tmp_path, [*others[:2], thieves[0]], features, outputs)
        _log(service, [*others[2:], thieves[1]], features, outputs)
        everybody = [*others, *thieves]
        service.read(service.topics.state_log, lambda found: _rows(found) >= sum(len(own.rows) for own in everybody))
        alerts = service.read(service.topics.alerts, lambda found: len(found) >= len(thieves))
        records = [decode(Alert, record.value) for record in alerts]
        assert {alert.principal for alert in records} == {thief.account for thief in thieves}
        assert {alert.profile for alert in records} == {profile.hash}
        assert service.metric("weirguard_unjudged_total") == 0
        form = learn(read_topic(service.kafka, since=0.0).pieces)[0]
        assert (form.outputs, form.classes) == (profile.form.outputs, profile.form.classes)
        assert set(profile.form.columns or ()) <= set(form.columns or ())
