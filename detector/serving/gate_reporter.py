"""The thread that reports what a gate did: an operator sees which gates run, how stale, and what they enforce."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable

from detector.contracts.codecs.records import encode
from detector.contracts.findings import GateReport
from detector.contracts.principals import NAME_CHARACTERS
from detector.serving.connection import Connection, abandon, partitions_of
from detector.serving.isolation import load
from detector.serving.metrics import Counters, RateLimitedLogger
from detector.serving.threads import BackgroundThread

_FIRST_SECONDS = 1.0
_QUIET_SECONDS = 3_600.0
"""Between two log lines: a gate enforces as well without its reports."""
_HOST_CHARACTERS = NAME_CHARACTERS // 2


def new_gate_id() -> str:
    """Returns an id for a gate of this process: host, process number and six random hexadecimal digits."""
    return f"{socket.gethostname()[:_HOST_CHARACTERS] or 'gate'}-{os.getpid()}-{secrets.token_hex(3)}"


class GateReporter(BackgroundThread):
    """Sends what ``describe(running)`` returns soon after the start, every ``seconds`` and once more at the end.

    Each report has its own producer, so no connection stays open in between. A report that cannot be sent is counted in
    ``unreported``; the next one includes its counts.
    """

    def __init__(
        self, connection: Connection, describe: Callable[[bool], GateReport], counters: Counters, seconds: float
    ) -> None:
        super().__init__("weirguard-gate-reports")
        self._connection = connection
        self._describe = describe
        self._counters = counters
        self._seconds = seconds
        self._pause = min(_FIRST_SECONDS, seconds)
        self._last = False
        self._log = RateLimitedLogger(logging.getLogger(__name__), _QUIET_SECONDS)

    def _finished(self) -> bool:
        """Returns whether the last report was tried; a report already under way at the end is not the last one."""
        return self._last

    def _report_error(self, error: BaseException) -> None:
        self._counters.add("unreported")
        self._log.warning("report", "a gate cannot report what it does (will go on trying): %s", error)

    def _work(self) -> None:
        self._closing.wait(self._pause)
        self._pause = self._seconds
        self._last = self._closing.is_set()
        load()
        report = self._describe(not self._last)
        producer = self._connection.reporting_producer()
        try:
            topic = self._connection.topics.gates
            partitions_of(producer, topic)
            producer.send(topic, encode(report), key=report.gate.encode()).get()
        finally:
            abandon(producer)
        self._counters.add("reported")
        self._reset_back_off()
