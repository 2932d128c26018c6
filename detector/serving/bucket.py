"""A token bucket that large requests can overdraw."""

from __future__ import annotations

import threading


class TokenBucket:
    """``rate`` queries a second on average, and at most one second's worth, or one query, at once.

    A request is let through while a whole token is there and then pays for all its rows, so that asking for a
    thousand rows at once only makes the next wait longer. Safe for any number of threads.
    """

    __slots__ = ("_at", "_lock", "_tokens", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._tokens = self._burst
        self._at: float | None = None
        self._lock = threading.Lock()

    @property
    def _burst(self) -> float:
        return max(1.0, self.rate)

    def take(self, now: float, queries: int = 1) -> float:
        """Pay for ``queries`` at ``now`` (seconds); 0 if let through, else the seconds to wait."""
        with self._lock:
            self._refill(now)
            if self._tokens < 1.0:
                return (1.0 - self._tokens) / self.rate
            self._tokens -= queries
            return 0.0

    def charge(self, queries: int) -> None:
        """Pay for ``queries`` more that were let through already."""
        with self._lock:
            self._tokens -= queries

    def _refill(self, now: float) -> None:
        elapsed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._tokens = min(self._burst, self._tokens + elapsed * self.rate)
        self._at = now
