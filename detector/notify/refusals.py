"""Notifications that a receiver refused permanently: a line each, in a file of bounded size."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from detector.contracts.errors import ConfigurationError
from detector.notify.notification import Notification
from detector.runtime.text import rfc3339

_MOST_BYTES = 10_000_000


class RefusalFile:
    """Appends to ``path``; beyond ten megabytes that file becomes ``path.1``, in place of the one before.

    Several threads may append. Raises ConfigurationError if the file cannot be written now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.open("ab").close()
        except OSError as error:
            raise ConfigurationError(f"notify.refused_file: cannot write {path}: {error.strerror}") from None

    def keep(self, receiver: str, why: str, notification: Notification, now: float) -> None:
        """Writes what ``receiver`` refused at ``now``, seconds, and its answer. Raises OSError."""
        line = {"receiver": receiver, "refused_at": rfc3339(now), "why": why, "notification": notification.as_data()}
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            if self._path.exists() and self._path.stat().st_size + len(data) > _MOST_BYTES:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            with self._path.open("ab") as file:
                file.write(data)
