"""One worker process: settings in, a running Faust application out. Started by the supervisor."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Mapping
from functools import partial

import faust
import structlog

from detector.contracts.errors import BrokerError, ConfigurationError
from detector.core.engine import Engine
from detector.policy.ledger import Ledger
from detector.runtime.broker import answers_versions
from detector.runtime.health import Health, ProbeServer
from detector.runtime.logging import configure_logging
from detector.runtime.metric_defs import DEAD_LETTERS, RESTARTS
from detector.runtime.metrics import new_metrics
from detector.runtime.sections import LoggingSettings, tls_context
from detector.runtime.settings import Settings, load_settings
from detector.stream import faust_edges, topics
from detector.stream.app import Application, create_app
from detector.stream.black_box import Caution, Notes
from detector.stream.broker_reads import BrokerReads
from detector.stream.building import engine_config, policy_of
from detector.stream.care import Care
from detector.stream.checkpoint import Checkpointer
from detector.stream.dead_letters import LetterLimits
from detector.stream.exits import Exit, stop_now
from detector.stream.intake import POISON, Receiver
from detector.stream.judge import Judge
from detector.stream.loops import make_ready
from detector.stream.owner import Owner
from detector.stream.partition import Partition, Writer
from detector.stream.reporter import Reporter
from detector.stream.sending import denied
from detector.stream.supervisor import RESTARTS_VARIABLE
from detector.stream.watchdog import Watchdog, watch

_CHUNK_BYTES = 1_000_000
_COLLECT_AFTER = (50_000, 20, 20)
"""A micro-batch makes tens of thousands of objects and hardly any cycles: by Python's own thresholds, looking for
cycles takes a tenth of a worker's CPU."""

_log = structlog.get_logger("weirguard.stream")


def main() -> None:
    """Run until SIGTERM, or until something is in doubt; exit statuses are in ``exits``."""
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
        stop_now(Exit.REFUSED if denied(error) else Exit.BROKER, str(error))
    make_ready(settings.detection.mode, has_profile=bool(settings.detection.profiles))
    gc.freeze()  # all that was made so far stays
    gc.enable()
    reporter.metrics.add(DEAD_LETTERS, 0, reason=POISON)
    reporter.metrics.add(RESTARTS, _restarts())
    watch(_watchdog(app, reporter, settings), stop_now)
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    worker = faust.Worker(app, quiet=True, override_logging=False, redirect_stdouts=False)
    worker.spinner = None  # it writes terminal escapes, and no option of Faust's keeps it from that
    worker.execute_from_commandline()


def build(settings: Settings) -> tuple[Application, Reporter]:
    """The application and what it reports to. Raises ConfigurationError."""
    health = Health(time.monotonic, settings.worker.stall_seconds)
    reporter = Reporter(health, new_metrics(settings.metrics.models))
    config, policy = engine_config(settings), policy_of(settings)
    reporter.judged_by(config.judging)
    names = settings.kafka.topics
    reads = BrokerReads(settings.kafka)
    engine = Engine(config)
    letters = LetterLimits(topics.letter_bytes(settings.kafka), settings.worker.dead_letters_per_minute)
    writer = Writer(
        f"{socket.gethostname()}:{os.getpid()}",
        config.configuration_hash(),
        settings.kafka.state_record_bytes,
        letters,
    )

    caution, notes = Caution.from_environment(os.environ), Notes.from_environment(os.environ)
    if not notes.kept:
        _log.info("no supervisor: a record that ends this worker will not be found")
    if caution:
        _log.warning(
            "records have ended workers", suspects=list(caution.suspects.values()), poison=list(caution.poison)
        )

    def new_partition(number: int) -> Partition:
        judge = Judge(engine.sibling(), Ledger(policy, writer.configuration))
        receiver = Receiver(number, settings.kafka.partitions, names)
        checkpointer = Checkpointer(judge, settings.worker.checkpoint_bytes, _CHUNK_BYTES)
        return Partition(receiver, judge, checkpointer, names, number, writer)

    def new_owner(app: faust.App) -> Owner:
        return Owner(
            app,
            names,
            new_partition,
            reads,
            reporter,
            Care(settings.worker.microbatch_bytes, caution, notes),
        )

    return create_app(settings, new_owner), reporter


def _watchdog(app: Application, reporter: Reporter, settings: Settings) -> Watchdog:
    names = settings.kafka.topics
    sources = {names.queries: "queries", names.rekeyed: "rekeyed", names.commands: "commands"}

    def committed() -> Mapping[tuple[str, int], int]:
        offsets = faust_edges.committed_offsets(app)
        return {(sources[tp.topic], tp.partition): offset for tp, offset in offsets.items() if tp.topic in sources}

    tls = tls_context(settings.kafka)

    def broker_answers() -> bool:
        addresses = (server.rpartition(":") for server in settings.kafka.servers)
        return any(answers_versions(host.strip("[]"), int(port), tls) for host, _, port in addresses)

    return Watchdog(reporter, committed, broker_answers, settings.worker.stall_seconds)


def _restarts() -> int:
    """How often the supervisor has started a worker again, as it says."""
    return int(os.environ.get(RESTARTS_VARIABLE, "0"))


if __name__ == "__main__":
    main()
