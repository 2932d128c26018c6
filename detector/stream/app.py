"""The Faust application: one agent over queries, also re-keyed and judged ones, and commands, and the state log as its
table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import faust
from faust.stores.base import Store

from detector.contracts.codecs.records import HEARTBEAT_SECONDS
from detector.contracts.errors import SourceGap
from detector.contracts.topics import STATE_TABLE
from detector.runtime.sections import KafkaSettings, secret, tls_context
from detector.runtime.settings import Settings
from detector.stream import faust_internals, topics
from detector.stream.exit_codes import Exit, stop_now
from detector.stream.partition_manager import SOURCES, PartitionManager

_RECOVERY_BUFFER_RECORDS = 8


class StateStore(Store[bytes, bytes]):
    """Holds nothing: the partitions are the state. Passes state log and rebalances to the partition manager."""

    def __post_init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    @property
    def manager(self) -> PartitionManager:
        application: Any = self.app
        manager: PartitionManager = application.weirguard_manager
        return manager

    def persisted_offset(self, tp: Any) -> int | None:
        return None

    def reset_state(self) -> None:
        return None

    async def backup_partition(self, *arguments: Any, **options: Any) -> None:
        return None

    def restore_backup(self, *arguments: Any, **options: Any) -> None:
        return None

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        for event in batch:
            if event.message.value is not None:
                self.manager.absorb(event.message.partition, event.message.offset, event.message.value)

    async def on_rebalance(self, assigned: Any, revoked: Any, newly_assigned: Any, generation_id: int = 0) -> None:
        work = partial(self.manager.reassigned, self._of_state_log(revoked), self._of_state_log(newly_assigned))
        await _or_stop(work, "the fence could not be written")

    async def on_recovery_completed(self, active_tps: Any, standby_tps: Any) -> None:
        self.app.consumer.stop_flow()
        await faust_internals.stopped_flow(self.app)
        await self.manager.recovered(self._of_state_log(active_tps))

    def _of_state_log(self, partitions: Iterable[Any]) -> list[int]:
        table: Any = self.table
        return [tp.partition for tp in partitions if tp.topic == table.changelog_topic_name]


def create_app(settings: Settings, new_manager: Callable[[faust.App], PartitionManager]) -> faust_internals.Application:
    """Returns the application for ``settings``; importing this module creates nothing."""
    faust_internals.install(settings.kafka.embedded)
    app = faust_internals.Application(settings.kafka.topics.application, **_options(settings))
    app.weirguard_manager, app.weirguard_store = new_manager(app), StateStore
    app.Table(
        STATE_TABLE,
        key_type=bytes,
        value_type=bytes,
        partitions=settings.kafka.partitions,
        recovery_buffer_size=_RECOVERY_BUFFER_RECORDS,
    )
    _add_agent(app, settings)
    _add_timers(app)
    return app


def _add_agent(app: faust_internals.Application, settings: Settings) -> None:
    topics = settings.kafka.topics
    sources = [getattr(topics, source) for source in SOURCES]
    raw: dict[str, Any] = {"key_type": bytes, "key_serializer": "raw", "value_type": bytes, "value_serializer": "raw"}
    app.topics.add(app.topic(*sources, **raw))
    app.weirguard_sources = frozenset(sources)
    app.weirguard_deliveries = app.channel(maxsize=0)
    app.weirguard_delivered = {}
    app.weirguard_taken = asyncio.Event()

    @app.agent(app.weirguard_deliveries, name="owner")
    async def process(stream: Any) -> None:
        async for delivery in stream:
            messages = faust_internals.messages(app, stream, delivery)
            try:
                await app.weirguard_manager.process(messages)
            except SourceGap as error:
                stop_now(Exit.SOURCE_GAP, str(error))
            except Exception as error:  # noqa: BLE001 - Faust would acknowledge and continue
                stop_now(Exit.STATE_NOT_WRITTEN, "a micro-batch could not be finished", error)
            for message in messages:
                message.ack(app.consumer)


def _add_timers(app: faust_internals.Application) -> None:
    manager = app.weirguard_manager

    @app.timer(5.0)  # type: ignore[untyped-decorator]
    async def survey() -> None:
        try:
            await manager.survey()
        except Exception as error:  # noqa: BLE001 - without figures the worker is still a worker
            manager.reporter.failed("survey", error)
        await _or_stop(manager.publish_scores, "scores could not be published")

    @app.timer(5.0)  # type: ignore[untyped-decorator]
    async def acknowledge() -> None:
        await manager.acknowledge()

    @app.timer(HEARTBEAT_SECONDS)  # type: ignore[untyped-decorator]
    async def beat() -> None:
        try:
            await manager.beat()
        except Exception as error:  # noqa: BLE001 - gates take it for away, as they should; what it decides is safe
            manager.reporter.failed("heartbeat", error)

    @app.timer(20.0)  # type: ignore[untyped-decorator]
    async def check_topics() -> None:
        await manager.check_topics()

    @app.timer(60.0)  # type: ignore[untyped-decorator]
    async def assert_decisions() -> None:
        await _or_stop(manager.assert_decisions, "standing decisions could not be published again")


async def _or_stop(work: Callable[[], Awaitable[None]], why: str) -> None:
    """Does ``work``. Ends the process if it fails, whatever the error."""
    try:
        await work()
    except Exception as error:  # noqa: BLE001 - Faust would log and continue
        stop_now(Exit.STATE_NOT_WRITTEN, why, error)


def _options(settings: Settings) -> dict[str, Any]:
    kafka, worker = settings.kafka, settings.worker
    largest = topics.largest_bytes(kafka)
    return {
        "broker": ";".join(f"kafka://{server}" for server in kafka.servers),
        "broker_credentials": credentials(kafka),
        "store": "memory://",
        "Table": faust_internals.StateTable,
        "table_standby_replicas": 0,
        "topic_partitions": kafka.partitions,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "consumer_auto_offset_reset": "earliest",
        "consumer_max_fetch_size": largest,
        "producer_max_request_size": largest,
        "producer_linger": 0.0,
        "broker_session_timeout": worker.session_timeout_seconds,
        "broker_heartbeat_interval": worker.heartbeat_seconds,
        "broker_commit_interval": worker.commit_seconds,
        "broker_max_poll_records": faust_internals.RECORDS_AT_ONCE,
        "stream_recovery_delay": 0,
        "web_enabled": False,
        "worker_redirect_stdouts": False,
    }


def credentials(kafka: KafkaSettings) -> faust.auth.Credentials | None:
    """Returns Faust's form of the security settings."""
    if kafka.security_protocol == "PLAINTEXT":
        return None
    context = tls_context(kafka)
    if not kafka.security_protocol.startswith("SASL"):
        return faust.SSLCredentials(context=context)
    return faust.SASLCredentials(
        username=kafka.sasl_plain_username,
        password=secret(kafka, "kafka", "sasl_plain_password"),
        mechanism=kafka.sasl_mechanism,
        ssl_context=context,
    )
