"""What a command says about the compiled loops, on standard error."""

from __future__ import annotations

import time

from detector.runtime.text import complain

QUIET_SECONDS = 2.0


class Told:
    """Says that loops are compiled once it takes a while, and everything that makes them slow. ``each``: names each
    function as it is compiled."""

    def __init__(self, *, each: bool = False) -> None:
        self._each = each
        self._since: float | None = None
        self._said = False

    def compiling(self, name: str) -> None:
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since < QUIET_SECONDS:
            return
        if not self._said:
            self._said = True
            complain("compiling the loops for this machine, once, which takes up to a minute; see weirguard warm")
        if self._each:
            complain(f"compiling {name}")

    def slow(self, why: str) -> None:
        complain(f"SLOW: loops run uncompiled, a hundred times slower: {why}")

    def not_kept(self, why: str) -> None:
        complain(f"each command compiles the loops anew: {why}")
