"""The one error tree.

::

    WeirguardError
    ├── ConfigurationError      a setting, profile or topic is wrong; the message names it and says what to do
    ├── InvalidRecord           bytes from outside that break their contract; dead-lettered, never retried
    ├── Unjudged                an answered query that cannot be logged; counted against its principal
    ├── StateLogError           the state log cannot be trusted as read; the worker stops
    │   ├── StateLogHole        a record is missing between two that were read
    │   └── NewerStateLog       written by a later version than this one
    ├── OwnershipLost           another worker owns the partition now; the worker stops
    ├── SourceGap               a micro-batch does not continue the applied offset; the worker stops
    └── BrokerError             Kafka did not do what was asked in time; retriable
"""

from __future__ import annotations


class WeirguardError(Exception):
    """Base of every error this package raises on purpose.

    ``reason`` is a stable machine word (a metric label, a dead-letter header); the message is for people.
    """

    reason = "error"
    retriable = False


class ConfigurationError(WeirguardError):
    reason = "configuration"


class InvalidRecord(WeirguardError):
    """A record, or one row of it, that breaks its contract.

    ``reason`` is one of a small fixed set of words, so that it may label a metric.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Unjudged(WeirguardError):
    """``queries`` answered queries that cannot be logged, None for as many as the bodies seem to hold. ``reason`` is a
    short word of [a-z-]."""

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
    retriable = True


class SourceGap(WeirguardError):
    reason = "source-gap"
    retriable = True


class BrokerError(WeirguardError):
    reason = "broker"
    retriable = True


class LabError(WeirguardError):
    """The lab was asked for something that this victim, attack or log cannot do."""


class NotMergeable(WeirguardError):
    """The states of several principals of this signal cannot be added up without their queries."""
