"""A token bucket that large requests can overdraw."""

from __future__ import annotations

import threading

_LOCK = threading.Lock()
"""One lock for all buckets: it is held for a moment, and a lock per bucket would have to be fetched from memory."""

LONGEST_SECONDS = 1e9
"""The longest wait, however low the rate: some thirty years, which a header can hold."""


def renew_lock() -> None:
    """Replaces the lock in a forked process: a thread that is gone may have held it."""
    global _LOCK  # noqa: PLW0603  the one lock of the process
    _LOCK = threading.Lock()


class TokenBucket:
    """``rate`` queries a second on average, and at most one second's worth, or one query, at once.

    A request passes while a whole token is available and is then charged for all its rows, so that a thousand rows at
    once only make the next wait longer. Safe for any number of threads.
    """

    __slots__ = ("_at", "_burst", "_tokens", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._burst = self._tokens = max(1.0, rate)
        self._at = float("inf")

    def take(self, now: float, queries: int = 1) -> float:
        """Charges ``queries`` at ``now`` (seconds). Returns 0 if they may pass, else the seconds to wait."""
        _LOCK.acquire()  # `with` and `min` cost more than all the rest, and a request waits for this
        try:
            tokens = self._tokens
            if now > self._at:
                tokens += (now - self._at) * self.rate
                tokens = self._burst if tokens > self._burst else tokens  # noqa: FURB136  as above
            self._at = now
            if tokens < 1.0:
                self._tokens = tokens
                wait = (1.0 - tokens) / self.rate
                return wait if wait < LONGEST_SECONDS else LONGEST_SECONDS  # noqa: FURB136  as above
            self._tokens = tokens - queries
            return 0.0
        finally:
            _LOCK.release()

    def charge(self, queries: int) -> None:
        """Charges ``queries`` more that have passed already."""
        with _LOCK:
            self._tokens -= queries
