"""Memory grows in place and keeps what it holds."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from detector.core.neighbours import store
from detector.core.neighbours.store import Memory


class Fixed(mmap.mmap):
    """A map that cannot be resized, as on macOS."""

    def resize(self, newsize: int) -> None:
        raise SystemError("mmap: resizing not available--no mremap()")


@pytest.mark.parametrize("kind", [mmap.mmap, Fixed])
def test_it_grows_and_keeps_what_it_holds(kind: type[mmap.mmap], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if kind is Fixed:
        monkeypatch.setattr(store, "_mapped", lambda size: kind(-1, size, flags=flags))
    held = Memory()
    assert len(held.floats) == 0
    for size in (10, 5_000, 100, 3_000_000):
        before = held.floats.copy()
        held.grow(size)
        assert len(held.floats) >= max(size, len(before))
        np.testing.assert_array_equal(held.floats[: len(before)], before)
        assert not held.floats[len(before) :].any()
        held.floats[: size // 2] = size


def test_it_does_not_grow_under_an_array_that_is_in_use() -> None:
    held = Memory()
    held.grow(10)
    array = held.floats
    with pytest.raises(BufferError):
        held.grow(100_000)
    assert not array.any()
