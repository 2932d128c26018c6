"""The common base of logger and gate: a thread per process, started by the first call, that outlives any fault."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

from detector.serving.isolation import renew_in_children, suppress_errors
from detector.serving.metrics import Counters

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
"""Pauses after a failure; each is twice the one before, until something goes well."""


class BackgroundThread(ABC):
    """A thread that works until it is closed. After an error it pauses and continues."""

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._closing = threading.Event()
        self._back_off = FIRST_PAUSE_SECONDS

    def start(self) -> None:
        self._thread.start()

    def end(self, timeout: float) -> None:
        """Lets the thread end, within ``timeout`` seconds if it can. Returns at once."""
        self._closing.set()

    def join(self, timeout: float) -> None:
        """Waits until the thread has ended, for at most ``timeout`` seconds."""
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._finished():
            with suppress_errors(self._failed):
                self._work()

    def _finished(self) -> bool:
        return self._closing.is_set()

    def _failed(self, error: BaseException) -> None:
        with suppress_errors():
            self._report_error(error)
        self._closing.wait(self._back_off)
        self._back_off = min(2 * self._back_off, LONGEST_PAUSE_SECONDS)

    def _reset_back_off(self) -> None:
        self._back_off = FIRST_PAUSE_SECONDS

    @abstractmethod
    def _work(self) -> None:
        """Does some work, and returns regularly."""

    @abstractmethod
    def _report_error(self, error: BaseException) -> None:
        """Counts and logs ``error``."""


B = TypeVar("B", bound=BackgroundThread)


class BackgroundService(ABC, Generic[B]):
    """Owns a ``BackgroundThread``, and maybe more, made again in each forked process and after each end."""

    counters: Counters

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = self._closed = False
        self._background = self._new_background(None)
        renew_in_children(self)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts the thread now instead of at the first call, or again after :meth:`close`.

        Returns at once, with or without a broker.
        """
        with self._lock:
            if self._closed:
                self._closed = self._started = False
                self._background = self._new_background(self._background)
        self._ensure_started()

    @abstractmethod
    def close(self, timeout: float = 2.0) -> None:
        """Ends the thread until :meth:`start`; waits at most ``timeout`` seconds."""

    def renew(self) -> None:
        """Starts again in a forked process, where the thread is gone."""
        self._lock = threading.Lock()
        self._started = False
        self._background = self._new_background(self._background)

    @abstractmethod
    def gauges(self) -> Mapping[str, float]:
        """Returns the current gauges by name."""

    def snapshot(self) -> dict[str, float]:
        """Returns counters and gauges by name."""
        return {**self.counters.snapshot(), **self.gauges()}

    @abstractmethod
    def _new_background(self, before: B | None) -> B:
        """Returns a background in the place of the one ``before``, if there was one."""

    def _threads(self) -> Sequence[BackgroundThread]:
        """Returns the threads that start and end together."""
        return (self._background,)

    def _ensure_started(self) -> None:
        with self._lock:
            if not self._started and not self._closed:
                self._started = True
                for thread in self._threads():
                    thread.start()

    def _close(self, timeout: float) -> None:
        with self._lock:
            running = self._started and not self._closed
            self._closed = True
        if not running:
            return
        deadline = time.monotonic() + timeout
        for thread in self._threads():
            thread.end(timeout)
        for thread in self._threads():
            thread.join(max(0.0, deadline - time.monotonic()))
