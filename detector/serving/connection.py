"""How serving reaches Kafka: one value that logger and gate share, and the clients built from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detector.contracts.topics import Topics

_BOOTSTRAP_MILLISECONDS = 5_000
_FOREVER_MILLISECONDS = 2**31 - 1
_FETCH_MILLISECONDS = 100


@dataclass(frozen=True, slots=True)
class Connection:
    """``bootstrap_servers`` as ``host:port``, several with commas; ``options`` are kafka-python's own names

    for TLS and SASL (``security_protocol``, ``sasl_mechanism``, ``ssl_cafile``, ...). ``topics`` must carry the
    detector's prefix.
    """

    bootstrap_servers: str
    topics: Topics = field(default_factory=Topics)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def producer(self) -> Any:
        """A connected KafkaProducer. Raises KafkaError within five seconds when no broker answers.

        It retries for ever; who uses it bounds what he hands over.
        """
        import kafka

        return self._build(
            kafka.KafkaProducer,
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=_FOREVER_MILLISECONDS,
            max_block_ms=_BOOTSTRAP_MILLISECONDS,
            allow_auto_create_topics=False,
        )

    def consumer(self) -> Any:
        """A connected KafkaConsumer without a group, for assigned partitions. Raises as :meth:`producer` does."""
        import kafka

        return self._build(
            kafka.KafkaConsumer,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_FETCH_MILLISECONDS,
            allow_auto_create_topics=False,
        )

    def _build(self, client: Any, **configuration: Any) -> Any:
        """``client`` built so that a failed attempt leaves neither its thread nor its sockets behind.

        kafka-python 3.0.12 leaves both when the constructor raises, once for each retry.
        """
        networks: list[Any] = []

        def network(**options: Any) -> Any:
            networks.append(client.DEFAULT_CONFIG["kafka_client"](**options))
            return networks[-1]

        common: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "bootstrap_timeout_ms": _BOOTSTRAP_MILLISECONDS,
            "client_id": "weirguard-serving",
            "kafka_client": network,
        }
        try:
            return client(**{**common, **configuration, **self.options})
        except BaseException:
            for opened in networks:
                opened.close()
            raise


def abandon(producer: Any) -> None:
    """Close ``producer`` at once; what it still holds fails.

    Its public ``close`` raises before stopping the sender thread when records are unsent (kafka-python
    3.0.12), and so the thread would retry for ever.
    """
    from kafka.errors import KafkaError

    try:
        producer.close(timeout=0)
    except KafkaError:
        producer._sender.force_close()
