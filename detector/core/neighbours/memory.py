"""Memory that grows in place, so that growth needs neither a copy nor twice the room."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

_HUGE = 4 << 20
"""From this size on the system may use huge pages, so that a search misses fewer addresses."""


class Memory:
    """``floats`` float32 (n,): all of it, zero at first. Pages take no room before they are written to."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None

    @property
    def floats(self) -> NDArray[np.float32]:
        """To be let go before ``grow``, which raises BufferError otherwise."""
        return np.empty(0, np.float32) if self._map is None else np.frombuffer(self._map, np.float32)

    def grow(self, floats: int) -> None:
        """Makes it at least ``floats`` long."""
        size = max(4 * floats, mmap.PAGESIZE)
        if self._map is None:
            self._map = _mapped(size)
        elif size > len(self._map):
            self._map = _grown(self._map, size)
        if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)


def _mapped(size: int) -> mmap.mmap:
    # What is behind a shared map would not grow with it.
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _grown(held: mmap.mmap, size: int) -> mmap.mmap:
    try:
        held.resize(size)
    except (SystemError, OSError):  # the system cannot, as macOS
        grown = _mapped(size)
        grown[: len(held)] = held[:]
        held.close()
        return grown
    return held
