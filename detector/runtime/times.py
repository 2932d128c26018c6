"""Times for people."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(seconds: float) -> str:
    """``seconds`` since 1970 as RFC 3339 in UTC, to the millisecond: ``2026-11-30T03:08:51.250Z``.

    Others' records may be of no day that the calendar has; these are told in seconds.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s after 1970"
