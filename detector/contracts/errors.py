"""The error tree.

::

    WeirguardError
    ├── ConfigurationError      a setting, profile or topic is wrong; the message names it and what to do
    ├── InvalidRecord           bytes from outside that break their contract; sent to the dead letters, not retried
    ├── Unjudged                an answered query that cannot be logged; counted for its principal
    ├── StateLogError           the state log is inconsistent; the worker stops
    │   ├── StateLogHole        a record is missing between two that were read
    │   └── NewerStateLog       written by a later version than this one
    ├── OwnershipLost           another worker owns the partition now; the worker stops
    ├── SourceGap               a micro-batch does not continue the applied offset; the worker stops
    ├── BrokerError             Kafka did not answer in time, or refused a request; retriable
    ├── ReceiverAway            a receiver did not accept a notification, or not for certain; retriable
    └── NotificationRefused     a receiver refused this notification permanently; kept, and not retried
"""

from __future__ import annotations


class WeirguardError(Exception):
    """Base of all errors of this package.

    ``reason`` is a stable machine word (a metric label, a dead-letter header); the message is for people.
    """

    reason = "error"


class ConfigurationError(WeirguardError):
    reason = "configuration"


class InvalidRecord(WeirguardError):
    """A record, or one row of it, that breaks its contract.

    ``reason`` is one of a small fixed set of words, so that it can be a metric label.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Unjudged(WeirguardError):
    """Answered queries that cannot be logged. ``queries``: their number, None to estimate it from the bodies.
    ``reason`` is a short word of [a-z-]."""

    def __init__(self, reason: str, detail: str, queries: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.queries = queries


class StateLogError(WeirguardError):
    reason = "state-log"


class StateLogHole(StateLogError):
    reason = "state-log-hole"


class NewerStateLog(StateLogError):
    reason = "state-log-newer"


class OwnershipLost(WeirguardError):
    reason = "ownership-lost"


class SourceGap(WeirguardError):
    reason = "source-gap"


class BrokerError(WeirguardError):
    reason = "broker"


class ReceiverAway(WeirguardError):
    """A receiver of notifications did not answer in time, or answered with an error that may pass. ``retry_after``: the
    seconds to wait that it asks for."""

    reason = "receiver-away"

    def __init__(self, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotificationRefused(WeirguardError):
    reason = "notification-refused"


class LabError(WeirguardError):
    """This victim, attack or log does not support the requested operation."""


_PACKAGES = {"lz4": "lz4", "snappy": "python-snappy", "zstd": "zstandard"}


def read_error(where: str, error: Exception) -> BrokerError:
    """Returns the BrokerError for kafka-python's ``error`` in reading ``where``. If it cannot read the compression, the
    message names the package to install."""
    if type(error).__name__ != "UnsupportedCodecError":
        return BrokerError(f"{where}: {error}")
    package = next((package for codec, package in _PACKAGES.items() if codec in str(error)), None)
    what = f"pip install {package}" if package else "it is unknown to this version of kafka-python"
    return BrokerError(f"{where}: the compression cannot be read here ({error}): {what}")
