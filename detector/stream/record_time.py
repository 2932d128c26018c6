"""The time of a record, as far as its timestamp is plausible. Policy time follows it and never goes back."""

from __future__ import annotations

from typing import Literal

TimeFault = Literal["absent", "past", "future"]

AHEAD_SECONDS = 300.0
"""The most seconds that a broker's clock may be ahead of the worker's."""
_FIRST_KAFKA = 1_293_840_000.0
"""2011-01-01: older timestamps come from a clock that was never set."""


def believed(timestamp: float | None, now: float) -> tuple[float, TimeFault | None]:
    """Returns ``timestamp``, or its replacement and the reason; Unix seconds, ``now`` being the worker's.

    A decision that begins in a far future never ends; one that begins in 1970 has ended before any gate sees it.
    """
    if timestamp is None or timestamp < 0:
        return now, "absent"
    if timestamp < _FIRST_KAFKA:
        return now, "past"
    if timestamp > now + AHEAD_SECONDS:
        return now + AHEAD_SECONDS, "future"
    return timestamp, None
