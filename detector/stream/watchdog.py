"""Stops a worker that makes no progress. Broker outages are ignored: a restart would not help."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from detector.stream.exit_codes import Exit
from detector.stream.reporter import Reporter

CUT_OFF_SECONDS = 30.0
"""A worker without any broker for this long starts again from the bootstrap servers, once those answer."""
RECOVERY_SECONDS = 15.0
"""Recovery that reads nothing for this long has stalled."""


@dataclass(slots=True)
class Watchdog:
    """Pure rules over the facts of the reporter; ``verdict`` is called every second or so.

    ``committed``: this worker's committed offsets by (source, partition). ``broker_answers`` is called last.
    """

    reporter: Reporter
    committed: Callable[[], Mapping[tuple[str, int], int]]
    broker_answers: Callable[[], bool]
    stall_seconds: float
    _behind_since: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)

    def verdict(self, now: float) -> tuple[Exit, str] | None:
        """Returns why the worker must stop, or None; also None if it is already stopping."""
        if self.reporter.health.stop_reason is not None:
            return None
        found = self._cut_off() or self._recovery() or self._commits(now)
        return found if found and self.broker_answers() else None

    def _cut_off(self) -> tuple[Exit, str] | None:
        """Finds brokers that moved: aiokafka only ever asks brokers that it knows. Bootstrapping again finds them."""
        seconds = self.reporter.health.cut_off_seconds()
        if seconds <= CUT_OFF_SECONDS:
            return None
        return Exit.BROKER, f"no broker that this worker knows could be reached for {seconds:.0f} s, and others answer"

    def _recovery(self) -> tuple[Exit, str] | None:
        health = self.reporter.health
        if health.partitions_assigned is None and health.still_seconds() > self.stall_seconds:
            return Exit.PROGRESS_STALLED, "the consumer group gave no assignment; is the session timeout one it allows?"
        waiting = health.partitions_recovered < (health.partitions_assigned or 0)
        if waiting and health.still_seconds() > RECOVERY_SECONDS:
            return Exit.RECOVERY_STALLED, f"no state record was read for {RECOVERY_SECONDS:.0f} s during recovery"
        probe = health.live()
        return None if probe.ok else (Exit.PROGRESS_STALLED, probe.why)

    def _commits(self, now: float) -> tuple[Exit, str] | None:
        committed = self.committed()
        for place, applied in list(self.reporter.applied.items()):
            offset = committed.get(place, 0)
            known = self._behind_since.get(place)
            if place not in committed or offset > applied:
                self._behind_since.pop(place, None)
            elif known is None or known[0] != offset:
                self._behind_since[place] = (offset, now)
            elif now - known[1] > self.stall_seconds:
                where = f"{place[0]}[{place[1]}]"
                return Exit.PROGRESS_STALLED, f"{where}: applied is {applied}, committed has not moved from {offset}"
        return None


def watch(watchdog: Watchdog, stop: Callable[[Exit, str], None]) -> threading.Thread:
    """Checks ``watchdog`` every second from a daemon thread, since a stuck event loop is one of the things it is for.

    Errors in it are reported, and it continues.
    """

    def loop() -> None:
        while True:
            time.sleep(1.0)
            try:
                found = watchdog.verdict(time.monotonic())
                if found:
                    stop(*found)
            except Exception as error:  # noqa: BLE001 - a watchdog that is gone is not missed until it is needed
                watchdog.reporter.failed("watchdog", error)

    thread = threading.Thread(target=loop, name="weirguard-watchdog", daemon=True)
    thread.start()
    return thread
