"""The connection of logger and gate to Kafka, and the clients built from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detector.contracts.errors import BrokerError
from detector.contracts.topics import Topics

_BOOTSTRAP_MILLISECONDS = 5_000
_RECONNECT_MILLISECONDS = 5_000
_FOREVER_MILLISECONDS = 2**31 - 1
_REPORT_MILLISECONDS = 5_000
_FETCH_MILLISECONDS = 100


@dataclass(frozen=True, slots=True)
class Connection:
    """``bootstrap_servers`` as ``host:port``, several with commas; ``options`` are kafka-python's own names for TLS and
    SASL (``security_protocol``, ``sasl_mechanism``, ``ssl_cafile``, ...).

    ``topics`` must have the detector's prefix. No client lets a broker create a topic; the detector creates them.
    """

    bootstrap_servers: str
    topics: Topics = field(default_factory=Topics)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def producer(self) -> Any:
        """Returns a connected KafkaProducer. Raises KafkaError within five seconds when no broker answers.

        It retries without end; its user bounds the rows given to it.
        """
        import kafka

        return self._build(
            kafka.KafkaProducer,
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=_FOREVER_MILLISECONDS,
            max_block_ms=_BOOTSTRAP_MILLISECONDS,
        )

    def reporting_producer(self) -> Any:
        """Returns a connected KafkaProducer for occasional records; a record that no broker accepts in time is lost.
        Raises as :meth:`producer` does."""
        import kafka

        return self._build(
            kafka.KafkaProducer,
            acks=1,
            enable_idempotence=False,  # it needs no permission but to write
            delivery_timeout_ms=_REPORT_MILLISECONDS,
            request_timeout_ms=_REPORT_MILLISECONDS,
            max_block_ms=_BOOTSTRAP_MILLISECONDS,
        )

    def consumer(self, **more: Any) -> Any:
        """Returns a connected KafkaConsumer, without a group unless ``more``, options of its own, names one. Raises as
        :meth:`producer` does."""
        import kafka

        options: dict[str, Any] = {
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "fetch_max_wait_ms": _FETCH_MILLISECONDS,
        }
        return self._build(kafka.KafkaConsumer, **{**options, **more})

    def _build(self, client: Any, **configuration: Any) -> Any:
        """Returns ``client``, built so that a failed attempt leaves neither its thread nor its sockets behind.

        kafka-python 3.0.12 leaves both when the constructor raises, once for each retry.
        """
        networks: list[Any] = []

        def network(**options: Any) -> Any:
            opened = client.DEFAULT_CONFIG["kafka_client"](**options)
            opened.cluster.config["allow_auto_create_topics"] = False  # kafka-python 3.0.12 does not hand its option on
            networks.append(opened)
            return opened

        common: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "bootstrap_timeout_ms": _BOOTSTRAP_MILLISECONDS,
            "reconnect_backoff_max_ms": _RECONNECT_MILLISECONDS,
            "client_id": "weirguard-serving",
            "kafka_client": network,
        }
        try:
            return client(**{**common, **configuration, **self.options})
        except BaseException:
            for opened in networks:
                opened.close()
            raise


class TopicMissing(BrokerError):
    """A topic does not exist, or not yet."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no topic {name} for this user; start the detector, which creates it, correct the prefix, or "
            "grant Describe there"
        )


def partitions_of(producer: Any, topic: str) -> int:
    """Returns the number of partitions of ``topic``. Raises TopicMissing, at the latest after five seconds."""
    from kafka.errors import KafkaTimeoutError, UnknownTopicOrPartitionError

    try:
        return len(producer.partitions_for(topic))
    except (KafkaTimeoutError, UnknownTopicOrPartitionError):
        raise TopicMissing(topic) from None


def rebootstrap(producer: Any) -> None:
    """Asks the bootstrap servers again for the brokers, and continues with the same records. Returns at once.

    kafka-python 3.0.12 tries only the brokers that it learned of last, without end. The producer stays the same,
    because its records already have sequence numbers, so none is sent twice.
    """
    producer._sender._client._manager.bootstrap_async(_BOOTSTRAP_MILLISECONDS)


def drop_inherited(producer: Any) -> None:
    """Drops ``producer`` in a forked process without closing it: its sockets belong to the parent."""
    producer._closed = True


def close_abruptly(producer: Any) -> None:
    """Closes ``producer`` at once; its unsent records fail.

    Its public ``close`` raises before stopping the sender thread when records are unsent (kafka-python 3.0.12), so the
    thread would retry without end.
    """
    from kafka.errors import KafkaError

    try:
        producer.close(timeout=0)
    except KafkaError:
        producer._sender.force_close()
