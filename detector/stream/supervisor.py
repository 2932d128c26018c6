"""``weirguard run``: keeps one worker process running, and says why it stopped.

A worker stops when consistency is uncertain; starting again from the state log restores it. Standard library and
structlog only, so that the supervisor has little that can fail.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

import structlog

from detector.runtime.broker import dying_with_parent
from detector.stream.exit_codes import FINAL, Exit, blames_records, meaning
from detector.stream.poison import InFlightNote, PoisonFinder

RESTARTS_VARIABLE = "WEIRGUARD_RESTARTS"
"""Environment variable by which a worker learns how many came before it."""

ALLOCATOR = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "16777216"}
"""Settings of glibc for the worker, where the operator has none: its dozen threads share the holes that fetches leave
in memory, and what is larger than 4 MB goes back to the system when it is freed. A lower limit would catch arrays of
micro-batches, and make judging slower by half."""

HEALTHY_SECONDS = 60.0
"""A worker that ran this long gets the first, short wait again."""
_GLANCE_SECONDS = 0.25
"""How long a signal to stop may go unnoticed: one that comes just before a call blocks does not end it."""

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""For the worker, unless the operator sets them. Partitions spread over workers, not threads: those that OpenMP
starts for FAISS outside of the main thread spend most of their time spinning, a third of a worker's CPU."""

_log = structlog.get_logger("weirguard.supervisor")


class Backoff:
    """Seconds to wait before the next start: doubled with each quick stop, ``first`` again after a healthy run."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._next = first

    def after(self, ran_seconds: float, code: int = Exit.UNEXPECTED) -> float:
        """Returns the wait after a run of ``ran_seconds`` that ended with ``code``."""
        if code == Exit.REFUSED:
            return self._most
        if ran_seconds >= HEALTHY_SECONDS:
            self._next = self._first
        wait, self._next = self._next, min(self._next * 2, self._most)
        return wait


class Supervisor:
    """Starts ``command`` again and again until it stops permanently or a signal arrives.

    A worker that does not stop within ``patience`` seconds is killed; the state log makes that harmless.
    """

    def __init__(
        self, command: Sequence[str], servers: Sequence[str], backoff: Backoff, patience: float = 15.0
    ) -> None:
        self._command = dying_with_parent(list(command))
        self._servers = servers
        self._backoff = backoff
        self._patience = patience
        self._stopping = False
        self._starts = 0
        self._in_flight = InFlightNote.create()
        self._poison = PoisonFinder()

    def run(self) -> int:
        """Supervises until the end. Returns the exit status for this process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if not self._in_flight.enabled:
            _log.warning("no memory to share with the worker: a record that ends it will not be found")
        while not self._stopping:
            self._wait_for_broker()
            if self._stopping:
                break
            started = time.monotonic()
            code = self._run_once()
            if code in FINAL or self._stopping:
                return self._last_word(code)
            self._look_for_poison(code)
            wait = self._backoff.after(time.monotonic() - started, code)
            _log.error("worker stopped", why=meaning(code), exit=code, restart_in_seconds=round(wait, 1))
            self._pause(wait)
        return Exit.CLEAN

    def _last_word(self, code: int) -> int:
        _log.info("worker stopped permanently", why=meaning(code), exit=code)
        return Exit.CLEAN if self._stopping else code

    def _look_for_poison(self, code: int) -> None:
        in_flight = self._in_flight.read() if blames_records(code) else []
        for records in in_flight:
            _log.warning("the worker ended while it processed records", **records._asdict())
        for source, partition, offset in self._poison.worker_ended(in_flight):
            where = {"source": source, "partition": partition, "offset": offset}
            _log.error("a record ends workers and goes to the dead letters", **where)

    def _run_once(self) -> int:
        for_worker = {RESTARTS_VARIABLE: str(self._starts)} | self._in_flight.environment | self._poison.environment
        self._starts += 1
        self._in_flight.end()
        # In a group of its own: Ctrl-C at a terminal is for the supervisor, which lets the worker finish.
        environment = ALLOCATOR | _ONE_THREAD | os.environ | for_worker
        worker = subprocess.Popen(self._command, env=environment, pass_fds=self._in_flight.descriptors, process_group=0)
        while not self._stopping:
            try:
                return worker.wait(_GLANCE_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        worker.terminate()
        try:
            return worker.wait(self._patience)
        except subprocess.TimeoutExpired:
            _log.warning("the worker does not stop and is killed; it loses nothing by it", seconds=self._patience)
            worker.kill()
            return worker.wait()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _wait_for_broker(self) -> None:
        """Waits for the broker, checked every second, so that an outage does not restart workers over and over."""
        waited = False
        while not self._stopping:
            if any(_listens(server) for server in self._servers):
                if waited:
                    _log.info("broker answers", servers=list(self._servers))
                return
            if not waited:
                _log.warning("waiting for the broker")
            waited = True
            self._pause(1.0)

    def _pause(self, seconds: float) -> None:
        """Sleeps for ``seconds``, or until there is a signal to stop."""
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _GLANCE_SECONDS))


def _listens(server: str) -> bool:
    host, _, port = server.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), 1.0):
            return True
    except OSError:
        return False


def worker_command() -> list[str]:
    """Returns the command that starts a worker of this installation; settings come by environment and
    WEIRGUARD_CONFIG."""
    return [sys.executable, "-m", "detector.stream"]
