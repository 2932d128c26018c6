"""Exit codes of a worker, which the supervisor can explain. A worker stops when consistency is uncertain, so that
nothing is lost."""

from __future__ import annotations

import os
import signal
import sys
from enum import IntEnum
from typing import NoReturn

import structlog


class Exit(IntEnum):
    """Exit codes of the worker process."""

    CLEAN = 0
    CONFIGURATION = 2
    BROKER = 69
    STATE_NOT_WRITTEN = 70
    STATE_LOG = 71
    SOURCE_GAP = 72
    OWNERSHIP_LOST = 73
    RECOVERY_STALLED = 74
    PROGRESS_STALLED = 75
    PROCESSING = 76
    UNEXPECTED = 77
    NEWER_STATE_LOG = 78
    REFUSED = 79


MEANING = {
    Exit.CLEAN: "stopped cleanly",
    Exit.CONFIGURATION: "the configuration is wrong; a restart would not help",
    Exit.BROKER: "Kafka could not be reached or asked",
    Exit.STATE_NOT_WRITTEN: "a state record or its outbox could not be written",
    Exit.STATE_LOG: "the state log has a hole or an unreadable record",
    Exit.SOURCE_GAP: "queries were delivered out of order around a rebalance",
    Exit.OWNERSHIP_LOST: "another worker has taken a partition of ours",
    Exit.RECOVERY_STALLED: "state recovery stood still",
    Exit.PROGRESS_STALLED: "records flowed but nothing was processed or committed",
    Exit.PROCESSING: "records could not be processed; if they end the next worker too, they are taken one by one",
    Exit.UNEXPECTED: "an error that should not happen; see the log line before",
    Exit.REFUSED: "Kafka refuses for good what must be written or read: a right or a topic's setting is wrong",
    Exit.NEWER_STATE_LOG: "the state log was written by a later version; a restart would not help",
}

FINAL = frozenset({Exit.CLEAN, Exit.CONFIGURATION, Exit.NEWER_STATE_LOG})
"""After these the supervisor does not restart the worker."""

_FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGKILL)


def blames_records(code: int) -> bool:
    """Returns whether the processed records may have ended the worker: an error, a crash, too much memory, or a hang.
    Trouble with the broker or with ownership is none of these."""
    return -code in _FATAL or code in {Exit.PROCESSING, Exit.PROGRESS_STALLED}


def meaning(code: int) -> str:
    """Returns a sentence for any exit status of a worker, as ``subprocess`` reports it."""
    if code < 0:
        return f"killed by signal {-code}"
    return MEANING[Exit(code)] if code in set(Exit) else f"exit status {code}"


def stop_now(code: Exit, why: str, error: BaseException | None = None) -> NoReturn:
    """Ends this process at once, committing nothing more. Does not return.

    A clean shutdown would let Faust acknowledge what was not applied; ending the process cannot.
    """
    structlog.get_logger("weirguard").critical(
        "worker stops", exit=int(code), meaning=MEANING[code], why=why, exc_info=error
    )
    for output in (sys.stdout, sys.stderr):
        output.flush()
    os._exit(code)
