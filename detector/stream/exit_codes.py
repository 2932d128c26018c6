"""Exit codes of a worker, which the supervisor can explain. A worker stops when consistency is uncertain, so that
nothing is lost."""

from __future__ import annotations

import os
import signal
import sys
from enum import IntEnum
from typing import NoReturn, Self

import structlog


class Exit(IntEnum):
    """Exit codes of the worker process, and what each means."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        member = int.__new__(cls, code)
        member._value_, member.meaning = code, meaning
        return member

    CLEAN = 0, "stopped cleanly"
    CONFIGURATION = 2, "the configuration is wrong; a restart would not help"
    BROKER = 69, "Kafka could not be reached or asked"
    STATE_NOT_WRITTEN = 70, "a state record or its outbox could not be written"
    STATE_LOG = 71, "the state log has a hole or an unreadable record"
    SOURCE_GAP = 72, "queries were delivered out of order around a rebalance"
    OWNERSHIP_LOST = 73, "another worker has taken a partition of ours"
    RECOVERY_STALLED = 74, "state recovery stood still"
    PROGRESS_STALLED = 75, "records flowed but nothing was processed or committed"
    PROCESSING = 76, "records could not be processed; if they end the next worker too, they are taken one by one"
    UNEXPECTED = 77, "an error that should not happen; see the log line before"
    NEWER_STATE_LOG = 78, "the state log was written by a later version; a restart would not help"
    REFUSED = 79, "Kafka permanently refuses what must be written or read: a right or a topic's setting is wrong"


FINAL = frozenset({Exit.CLEAN, Exit.CONFIGURATION, Exit.NEWER_STATE_LOG})
"""After these the supervisor does not restart the worker."""

_FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGKILL)


def blames_records(code: int) -> bool:
    """Returns whether the processed records may have ended the worker: an error, a crash, too much memory, or a hang.
    Trouble with the broker or with ownership does not count."""
    return -code in _FATAL or code in {Exit.PROCESSING, Exit.PROGRESS_STALLED}


def meaning(code: int) -> str:
    """Returns a sentence for any exit status of a worker, as ``subprocess`` reports it."""
    if code < 0:
        return f"killed by signal {-code}"
    return next((status.meaning for status in Exit if status == code), f"exit status {code}")


def stop_now(code: Exit, why: str, error: BaseException | None = None) -> NoReturn:
    """Ends this process at once, committing nothing more. Does not return.

    A clean shutdown would let Faust acknowledge what was not applied; ending the process cannot.
    """
    structlog.get_logger("weirguard").critical(
        "worker stops", exit=int(code), meaning=code.meaning, why=why, exc_info=error
    )
    for output in (sys.stdout, sys.stderr):
        output.flush()
    os._exit(code)
