"""Makes the compiled loops ready before a worker takes queries, and logs what that takes."""

from __future__ import annotations

import time

import structlog

from detector.core.configuration import EngineMode
from detector.core.loops.compiled import SWITCH, is_off, listen
from detector.core.warm import warm_for

_log = structlog.get_logger("weirguard.stream")


class _Logged:
    """Logs what happens to the loops."""

    def __init__(self) -> None:
        self.compiled = 0

    def compiling(self, name: str) -> None:
        if not self.compiled:
            _log.warning("compiling the loops, once for this machine and version; `weirguard warm` does it beforehand")
        self.compiled += 1

    def slow(self, why: str) -> None:
        _log.error(f"SLOW: loops run uncompiled, a hundred times slower: {why}")

    def not_kept(self, why: str) -> None:
        _log.warning(f"every start compiles the loops anew: {why}")


def make_ready(mode: EngineMode, *, has_profile: bool) -> None:
    """Loads the machine code of the loops that an engine of this ``mode`` calls, or compiles them."""
    if is_off():
        _log.error(f"SLOW: loops run uncompiled, a hundred times slower, as {SWITCH} says")
        return
    started, heard = time.monotonic(), _Logged()
    listen(heard)
    warm_for(mode, has_profile=has_profile)
    _log.info("loops are ready", compiled=heard.compiled, seconds=round(time.monotonic() - started, 2))
