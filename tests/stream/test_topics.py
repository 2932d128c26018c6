"""Topics: made with the right shape, and a wrong one is refused with what to do."""

from __future__ import annotations

import pytest

from detector.contracts.errors import BrokerError, ConfigurationError
from detector.runtime.broker import free_port
from detector.runtime.sections import KafkaSettings
from detector.stream.topics import ensure, shapes
from tests.conftest import Broker


def settings_of(broker: Broker, prefix: str, partitions: int = 3) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=broker.bootstrap, embedded=broker.embedded, prefix=prefix, partitions=partitions
    )


def test_topics_are_made_once_and_then_found(broker: Broker, prefix: str) -> None:
    ensure(settings_of(broker, prefix))
    ensure(settings_of(broker, prefix))


def test_another_number_of_partitions_is_refused(broker: Broker, prefix: str) -> None:
    ensure(settings_of(broker, prefix))
    with pytest.raises(ConfigurationError, match=r"set kafka\.partitions"):
        ensure(settings_of(broker, prefix, partitions=4))


def test_an_absent_broker_is_a_broker_error() -> None:
    with pytest.raises(BrokerError, match="cannot reach Kafka"):
        ensure(KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}"))


def test_the_state_log_is_kept_for_ever_and_takes_large_records() -> None:
    kafka = KafkaSettings()
    (state,) = [shape for shape in shapes(kafka) if shape.name == kafka.topics.state_log]
    assert (state.config["cleanup.policy"], state.config["retention.ms"]) == ("delete", "-1")
    assert int(state.config["max.message.bytes"]) >= 4 * kafka.query_record_bytes
