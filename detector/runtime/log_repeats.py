"""Limits repeated log lines of libraries to once a minute: an absent broker caused some 80 lines a second."""

from __future__ import annotations

import logging
from collections.abc import Collection

EVERY_SECONDS = 60.0


class Repeats(logging.Filter):
    """Passes a message of ``libraries`` once in EVERY_SECONDS for each place in their code, with how many were left
    out since. Time is the message's own."""

    def __init__(self, libraries: Collection[str]) -> None:
        super().__init__()
        self._libraries = frozenset(libraries)
        self._said: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is to be written."""
        if record.name.partition(".")[0] not in self._libraries:
            return True
        place = record.pathname, record.lineno
        said_at, left_out = self._said.get(place, (None, 0))
        if said_at is not None and 0 <= record.created - said_at < EVERY_SECONDS:
            self._said[place] = said_at, left_out + 1
            return False
        self._said[place] = record.created, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like it were left out)", ()
        return True
