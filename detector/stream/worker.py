"""One worker process: settings in, a running Faust application out. Started by the supervisor."""

from __future__ import annotations

import gc
import os
import socket
import time
from functools import partial

import faust
import structlog

from detector.contracts.errors import BrokerError, ConfigurationError
from detector.core.configuration import EngineMode
from detector.core.engine import Engine
from detector.core.loops.compiled import SWITCH, is_off, listen
from detector.core.warm import warm_for
from detector.groups.owner import GroupOwner
from detector.policy.ledger import Ledger
from detector.runtime.broker import answers_versions
from detector.runtime.health import Health, ProbeServer
from detector.runtime.logging import configure_logging
from detector.runtime.metric_defs import DEAD_LETTERS, RESTARTS
from detector.runtime.metrics import new_metrics
from detector.runtime.sections import LoggingSettings, tls_context
from detector.runtime.settings import Settings, load_settings
from detector.stream import topics
from detector.stream.app import create_app
from detector.stream.checkpoint import Checkpointer
from detector.stream.dead_letters import LetterLimits
from detector.stream.detection_config import cautious_policy, engine_config, joint_limit
from detector.stream.detector import Detector
from detector.stream.exit_codes import Exit, stop_now
from detector.stream.faust_internals import Application
from detector.stream.intake import POISON, RecordDecoder
from detector.stream.partition import LogWriter, Partition
from detector.stream.partition_manager import Batching, PartitionManager
from detector.stream.poison import InFlightNote, Quarantine
from detector.stream.reporter import Reporter
from detector.stream.sender import is_denied
from detector.stream.source_checks import BrokerReads
from detector.stream.supervisor import RESTARTS_VARIABLE
from detector.stream.watchdog import Watchdog, watch

_CHUNK_BYTES = 1_000_000
_COLLECT_AFTER = (50_000, 20, 20)
"""A micro-batch makes tens of thousands of objects and hardly any cycles: by Python's own thresholds, looking for
cycles takes a tenth of a worker's CPU."""

_log = structlog.get_logger("weirguard.stream")


def main() -> None:
    """Runs until SIGTERM, or until the state can no longer be trusted; the exit codes are in ``exit_codes``."""
    configure_logging(LoggingSettings())  # for what is wrong with the settings themselves
    try:
        settings = load_settings()
        configure_logging(settings.logging)
        app, reporter = build(settings)
        topics.ensure(settings.kafka)
        failed = partial(reporter.failed, "probes")
        ProbeServer(reporter.metrics, reporter.health, settings.metrics.host, settings.metrics.port, failed).start()
    except ConfigurationError as error:
        stop_now(Exit.CONFIGURATION, str(error))
    except BrokerError as error:
        stop_now(Exit.REFUSED if is_denied(error) else Exit.BROKER, str(error))
    load_loops(settings.detection.mode, has_profile=bool(settings.detection.profiles))
    gc.freeze()  # all that was made so far stays
    gc.enable()
    reporter.metrics.add(DEAD_LETTERS, 0, reason=POISON)
    reporter.metrics.add(RESTARTS, int(os.environ.get(RESTARTS_VARIABLE, "0")))
    watch(_watchdog(app, reporter, settings), stop_now)
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    worker = faust.Worker(app, quiet=True, override_logging=False, redirect_stdouts=False)
    worker.spinner = None  # it writes terminal escapes, and no option of Faust's keeps it from that
    worker.execute_from_commandline()


def build(settings: Settings) -> tuple[Application, Reporter]:
    """Returns the application and what it reports to. Raises ConfigurationError."""
    reporter = Reporter(Health(time.monotonic, settings.worker.stall_seconds), new_metrics(settings.metrics.models))
    config, policy, limit = engine_config(settings), cautious_policy(settings), joint_limit(settings)
    if policy.allowlist.unreadable is not None:
        _log.error("OBSERVING: nothing is enforced automatically", why=policy.allowlist.unreadable)
    reporter.judged_by(config.judging)
    names, engine = settings.kafka.topics, Engine(config)
    writer = LogWriter(
        f"{socket.gethostname()}:{os.getpid()}",
        config.configuration_hash(),
        settings.kafka.state_record_bytes,
        LetterLimits(topics.letter_bytes(settings.kafka), settings.worker.dead_letters_per_minute),
    )
    quarantine, in_flight = Quarantine.from_environment(os.environ), InFlightNote.from_environment(os.environ)
    if not in_flight.enabled:
        _log.info("no supervisor: a record that ends this worker will not be found")
    if quarantine:
        _log.warning(
            "records have ended workers", suspects=list(quarantine.suspects.values()), poison=list(quarantine.poison)
        )

    def new_partition(number: int) -> Partition:
        detector = Detector(engine.sibling(), Ledger(policy, writer.configuration))
        decoder = RecordDecoder(number, settings.kafka.partitions, names)
        groups = GroupOwner(config.judging, writer.configuration, settings.detection.group_bytes, limit)
        checkpointer = Checkpointer(detector, groups, settings.worker.checkpoint_bytes, _CHUNK_BYTES)
        return Partition(decoder, detector, groups, checkpointer, writer)

    def new_manager(app: faust.App) -> PartitionManager:
        batching = Batching(settings.worker.microbatch_bytes, quarantine, in_flight)
        return PartitionManager(app, names, new_partition, BrokerReads(settings.kafka), reporter, batching)

    return create_app(settings, new_manager), reporter


def _watchdog(app: Application, reporter: Reporter, settings: Settings) -> Watchdog:
    tls = tls_context(settings.kafka)

    def broker_answers() -> bool:
        addresses = (server.rpartition(":") for server in settings.kafka.servers)
        return any(answers_versions(host.strip("[]"), int(port), tls) for host, _, port in addresses)

    return Watchdog(reporter, app.weirguard_manager.committed, broker_answers, settings.worker.stall_seconds)


class _LoopEvents:
    """Logs what happens to the compiled loops."""

    def __init__(self) -> None:
        self.compiled = 0

    def compiling(self, name: str) -> None:
        if not self.compiled:
            _log.warning("compiling the loops, once for this machine and version; `weirguard warm` does it beforehand")
        self.compiled += 1

    def slow(self, why: str) -> None:
        _log.error(f"SLOW: loops run uncompiled, a hundred times slower: {why}")

    def not_kept(self, why: str) -> None:
        _log.warning(f"every start compiles the loops again: {why}")


def load_loops(mode: EngineMode, *, has_profile: bool) -> None:
    """Loads the machine code of the loops that an engine of this ``mode`` calls, or compiles them."""
    if is_off():
        _log.error(f"SLOW: loops run uncompiled, a hundred times slower, as {SWITCH} says")
        return
    started, events = time.monotonic(), _LoopEvents()
    listen(events)
    warm_for(mode, has_profile=has_profile)
    _log.info("loops are ready", compiled=events.compiled, seconds=round(time.monotonic() - started, 2))


if __name__ == "__main__":
    main()
