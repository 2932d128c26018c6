"""Logger and gate on brokers as operators have them: that create topics, compress them, or come back elsewhere."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from detector.contracts.topics import Topics
from detector.serving import Connection, Gate, QueryLogger
from tests.brokers.node import KafkaNode
from tests.conftest import Broker
from tests.serving.arrivals import LATER, PARTITIONS, counts_of, create_topics, received, rows_of, tell, until
from tests.serving.doubles import decision


def test_whoever_starts_before_the_detector_makes_no_topic_and_loses_no_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with KafkaNode(tmp_path, extra="auto.create.topics.enable=true") as node:
        connection = Connection(node.bootstrap)
        with QueryLogger(connection) as logger, Gate(connection) as gate:
            for number in range(10):
                logger.log(f"p{number}", "digits", "1", [1.0], [1.0])
                logger.refused("thief", "digits")
            assert until(lambda: logger._background._back_off > 0.2, 30), "it should have looked for its topic twice"
            assert until(lambda: gate._background._back_off > 0.2)
            with KafkaAdminClient(bootstrap_servers=node.bootstrap) as admin:
                assert admin.list_topics() == []
            assert (logger.snapshot()["queued"], logger.snapshot()["failures"]) == (10, 0)
            assert until(lambda: "there is no topic weirguard.queries" in caplog.text, 60), "in the end it is said"
            create_topics(connection)
            assert gate.wait_until_ready(20)
            assert until(lambda: logger.snapshot()["sent"] == 10, 30)
        assert logger.snapshot()["dropped"] == 0


@pytest.fixture
def compressed(broker: Broker, prefix: str, codec: str) -> Connection:
    """Topics that the broker compresses, whatever the producer did."""
    connection = Connection(broker.bootstrap, Topics(prefix))
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
        for name in (connection.topics.queries, connection.topics.decisions):
            configs = {"compression.type": codec}
            admin.create_topics(
                [NewTopic(name=name, num_partitions=PARTITIONS, replication_factor=1, topic_configs=configs)]
            )
    return connection


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_what_the_broker_compresses_is_read(compressed: Connection, codec: str) -> None:
    tell(compressed, decision("refuse", expires_at=LATER))
    with QueryLogger(compressed) as logger, Gate(compressed) as gate:
        assert gate.wait_until_ready(20)
        assert not gate.check("digits", "thief").allowed
        logger.log("p", "digits", "1", [1.0], [1.0])
    assert rows_of(received(compressed, lambda records: rows_of(records) >= 1)) == 1


def test_a_record_that_the_topic_does_not_take_costs_its_own_rows_alone(broker: Broker, prefix: str) -> None:
    connection = Connection(broker.bootstrap, Topics(prefix))
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
        configs = {"max.message.bytes": "20000"}
        admin.create_topics([NewTopic(connection.topics.queries, PARTITIONS, 1, topic_configs=configs)])
    with QueryLogger(connection) as logger:
        logger.log("wide", "digits", "1", [0.5] * 60_000, [1.0])
        assert until(lambda: logger.snapshot()["dropped"] == 1)
        logger.log("p", "digits", "1", [1.0], [1.0])
        assert until(lambda: logger.snapshot()["sent"] == 1)
    arrived = received(connection, lambda records: any(decoded.counts for decoded in records))
    counts = [(one.principal, one.kind, one.queries, one.reason) for one in counts_of(arrived)]
    assert counts == [("wide", "dropped", 1, "kafka")]
    assert rows_of(arrived) == 1


@pytest.mark.parametrize(("codec", "package"), [("snappy", "python-snappy"), ("lz4", "lz4"), ("zstd", "zstandard")])
def test_a_codec_that_is_not_installed_is_named(
    compressed: Connection,
    codec: str,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tell(compressed, decision("refuse", expires_at=LATER))
    monkeypatch.setattr(f"kafka.codec.{codec}", None)
    with Gate(compressed) as gate:
        assert until(lambda: gate.snapshot()["failures"] > 0)
        assert f"pip install {package}" in caplog.text
        assert "Traceback" not in caplog.text
        assert gate.check("digits", "thief").stale
        monkeypatch.undo()
        assert gate.wait_until_ready(20)


class _Relay:
    """The name that brokers are found by: connections to ``port`` go wherever ``target`` is at that moment."""

    def __init__(self) -> None:
        self.target = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.bootstrap = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self.target), 2)
            except OSError:
                return
            with server:
                threading.Thread(target=_copy, args=(client, server), daemon=True).start()
                _copy(server, client)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture
def relay() -> Iterator[_Relay]:
    made = _Relay()
    yield made
    made.close()


def test_a_broker_that_comes_back_under_another_address_is_found_and_gets_every_row_once(
    tmp_path: Path, relay: _Relay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "detector")
    connection = Connection(relay.bootstrap)
    with KafkaNode(tmp_path) as node:
        relay.target = node.port
        create_topics(connection)
        logger, gate = QueryLogger(connection), Gate(connection)
        assert gate.wait_until_ready(20)
        logger.log("before", "digits", "1", [1.0], [1.0])
        assert until(lambda: logger.snapshot()["sent"] == 1)
        node.stop()
        for number in range(10):
            logger.log("meanwhile", "digits", "1", [float(number)], [1.0])
    with KafkaNode(tmp_path) as node:
        relay.target = node.port
        tell(connection, decision("refuse", expires_at=LATER))
        logger.log("after", "digits", "1", [1.0], [1.0])
        assert until(lambda: logger.snapshot()["sent"] == 12, 60)
        assert until(lambda: not gate.check("digits", "thief").allowed, 60)
        assert logger.snapshot()["dropped"] == logger.snapshot()["in_flight"] == 0
        assert logger.snapshot()["failures"] > 0
        assert rows_of(received(connection, lambda records: rows_of(records) >= 12)) == 12
        logger.close()
        gate.close()
    said = [line.name for line in caplog.records if line.name.startswith("detector.serving")]
    said = [name for name in said if name != "detector.serving.gate_reporter"]  # gates of other tests may report too
    assert sorted(set(said)) == sorted(said) == ["detector.serving.decision_reader", "detector.serving.delivery"]
