"""A token bucket that large requests can overdraw."""

from __future__ import annotations

import threading


class TokenBucket:
    """``rate`` queries a second on average, and at most one second's worth, or one query, at once.

    A request is let through while a whole token is there and then pays for all its rows, so that asking for a
    thousand rows at once only makes the next wait longer. Safe for any number of threads.
    """

    __slots__ = ("_at", "_burst", "_lock", "_tokens", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._burst = self._tokens = max(1.0, rate)
        self._at = float("inf")
        self._lock = threading.Lock()

    def take(self, now: float, queries: int = 1) -> float:
        """Pay for ``queries`` at ``now`` (seconds); 0 if let through, else the seconds to wait."""
        with self._lock:
            if now > self._at:
                self._tokens = min(self._burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
            if self._tokens < 1.0:
                return (1.0 - self._tokens) / self.rate
            self._tokens -= queries
            return 0.0

    def charge(self, queries: int) -> None:
        """Pay for ``queries`` more that were let through already."""
        with self._lock:
            self._tokens -= queries
