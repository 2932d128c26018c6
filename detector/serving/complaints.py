"""Rate-limited warnings: a broken broker or extractor cannot flood the log."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from detector.serving.forks import renew_in_children


@contextlib.contextmanager
def harmless(failed: Callable[[BaseException], object] | None = None) -> Iterator[None]:
    """Suppresses whatever is raised in this block, except what is to end the process. ``failed`` is called with it."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001  nothing of ours may break the caller or end a thread
        if failed is not None:
            failed(error)


class Complaints:
    """Warnings through ``logger``, each kind at most once in ``seconds``; a log handler that raises disturbs nobody."""

    def __init__(self, logger: logging.Logger, seconds: float = 60.0) -> None:
        self._logger = logger
        self._seconds = seconds
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Starts anew in a forked process."""
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def say(self, kind: str, message: str, *arguments: object, error: BaseException | None = None) -> None:
        """Logs ``message`` unless this ``kind`` (one of a few fixed words) was logged a moment ago."""
        if self._due(kind):
            with harmless():
                self._logger.warning(message, *arguments, exc_info=error)

    def _due(self, kind: str) -> bool:
        now = time.monotonic()
        with self._lock:
            if now - self._said.get(kind, -self._seconds) < self._seconds:
                return False
            self._said[kind] = now
            return True
