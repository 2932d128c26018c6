"""Profiles of a running service: which are in use, and queries that fit none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from detector.contracts.codecs import decode
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Alert, Score
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.groups.owner import GroupOwner
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.runtime.health import Health
from detector.runtime.metric_defs import MISFITS
from detector.runtime.metrics import new_metrics
from detector.stream.checkpoint import Checkpointer
from detector.stream.commit_unit import CommitUnit
from detector.stream.detection_config import read_profiles
from detector.stream.detector import Detector
from detector.stream.intake import RecordDecoder
from detector.stream.partition import LogWriter, Partition
from detector.stream.reporter import Reporter
from detector.stream.state_log import StateRecord, encode
from tests.core.honest import crowd, honest, of_version, thief
from tests.core.profiles import profile
from tests.stream.world import TOPICS, apply, at, figures, source

PROFILE = profile(crowd(1, rows=200)[0].features, threshold=3.0)


def partition_with(*profiles: Profile) -> Partition:
    judge = Detector(Engine(EngineConfig(profiles=profiles)), Ledger(Policy(), "test"))
    groups = GroupOwner((), "test", 1 << 20)
    checkpointer = Checkpointer(judge, groups, 1 << 30, 3_000)
    partition = Partition(RecordDecoder(0, 1, TOPICS), judge, groups, checkpointer, LogWriter("w", "test"))
    partition.absorb(0, encode(StateRecord("fence", -1, 0)))
    partition.takeover(0, 0)
    return partition


def stepped(partition: Partition, queries: QueryBatch) -> CommitUnit:
    return apply(partition, source(queries, [len(queries)]))


def alerts_of(unit: CommitUnit) -> list[Alert]:
    return [decode(Alert, message.value) for message in unit.after if message.topic == TOPICS.alerts]


def test_an_alert_of_a_profile_names_it() -> None:
    alerts = alerts_of(stepped(partition_with(PROFILE), thief()))
    said = [(alert.signal, alert.profile, alert.calibrated, alert.severity, alert.revision) for alert in alerts]
    assert said == [("suspicion", PROFILE.hash, True, "medium", 1), ("suspicion", PROFILE.hash, True, "high", 2)]
    assert len({alert.id for alert in alerts}) == 1
    reporter, records = Reporter(Health(lambda: 0.0, 60.0), new_metrics(5), lambda: 2.0), source(thief(), [120])
    partition = partition_with(PROFILE)
    reporter.performed([(partition, records, apply(partition, records))])
    served = [line for line in reporter.metrics.render().decode().splitlines() if "alerts_total{" in line]
    assert served == ['weirguard_alerts_total{model="credit",severity="medium",signal="suspicion"} 1.0']
    assert alerts_of(stepped(partition_with(), honest("ana", 1))) == []


def test_queries_that_fit_no_profile_are_counted_by_reason_and_told_of_once() -> None:
    reporter = Reporter(Health(lambda: 0.0, 60.0), new_metrics(5), lambda: 2.0)
    partition = partition_with(PROFILE)
    with capture_logs() as told:
        for queries in (honest("ana", 1), of_version(honest("bo", 2), "2"), of_version(honest("bo", 3), "2")):
            records = source(queries, [len(queries)])
            reporter.performed([(partition, records, apply(partition, records))])
    served = [line for line in reporter.metrics.render().decode().splitlines() if "profile_misfits_total{" in line]
    assert served == ['weirguard_profile_misfits_total{model="credit",reason="model_version"} 100.0']
    assert [line["event"][:47] for line in told] == ["there is no profile for credit 2, only for vers"]


def test_without_profiles_nothing_fits_ill() -> None:
    assert figures(stepped(partition_with(), honest("ana", 1)), MISFITS) == {}


def test_what_is_judged_without_a_profile_is_called_uncalibrated_everywhere() -> None:
    """One model has a profile, for one of its versions, the other has none."""
    reporter = Reporter(Health(lambda: 0.0, 60.0), new_metrics(5), lambda: 2.0)
    partition = partition_with(PROFILE)
    own = [honest("ana", 1), of_version(honest("bo", 2), "2"), replace(honest("cy", 3), model="other")]
    scores: dict[str, bool | None] = {}
    with capture_logs() as told:
        for offset, queries in enumerate(own):
            records = [at(source(queries, [len(queries)])[0], offset=offset)]
            step = apply(partition, records)
            reporter.performed([(partition, records, step)])
            said = [decode(Score, message.value) for message in step.after if message.topic == TOPICS.scores]
            scores |= {score.principal: score.calibrated for score in said}
    assert scores == {"ana": True, "bo": True, "cy": False}
    served = [line for line in reporter.metrics.render().decode().splitlines() if "uncalibrated_total{" in line]
    assert served == [f'weirguard_queries_uncalibrated_total{{model="other"}} {float(len(own[2]))}']
    assert reporter.health.ready().facts["uncalibrated"] == ["other 1"]
    warnings = [line["event"] for line in told if "UNCALIBRATED" in line["event"]]
    assert [warning.partition(": honest")[0] for warning in warnings] == [
        "UNCALIBRATED: other 1 is judged without a profile of honest traffic"
    ]
    assert "`weirguard calibrate`" in warnings[0]


def test_a_service_without_profiles_says_so_when_it_starts() -> None:
    reporter = Reporter(Health(lambda: 0.0, 60.0), new_metrics(5), lambda: 2.0)
    with capture_logs() as told:
        reporter.judged_by([])
    assert [(line["log_level"], line["event"][:40]) for line in told] == [
        ("warning", "UNCALIBRATED: every model is judged with")
    ]


def test_the_profiles_in_use_are_told_to_probes_metrics_and_log() -> None:
    reporter = Reporter(Health(lambda: 0.0, 60.0), new_metrics(5), lambda: 2.0)
    with capture_logs() as told:
        reporter.judged_by([PROFILE])
    assert reporter.health.ready().facts["profiles"] == {"credit 1": PROFILE.hash}
    line = f'weirguard_profile_info{{model="credit",model_version="1",profile="{PROFILE.hash}"}} 1.0'
    assert line in reporter.metrics.render().decode().splitlines()
    assert [entry["event"] for entry in told] == [f"profile {PROFILE.hash} of credit 1"]


def test_files_of_profiles_are_read_or_refused_with_their_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(PROFILE.to_bytes())
    two.write_bytes(replace(PROFILE, model_version="2").to_bytes())
    assert [own.model_version for own in read_profiles([one, two])] == ["1", "2"]
    two.write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match=f"profile {two}: not a profile"):
        read_profiles([one, two])
    with pytest.raises(ConfigurationError, match="absent: cannot read it: No such file"):
        read_profiles([tmp_path / "absent"])
