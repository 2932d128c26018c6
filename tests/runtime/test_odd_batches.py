"""What looking at a batch costs in memory."""

from __future__ import annotations

import cramjam
import psutil

from detector.runtime.odd_batches import MOST_BYTES, is_bomb


def test_memory_is_given_back_after_a_bomb_and_after_a_large_batch() -> None:
    process = psutil.Process()
    bomb, large = (bytes(cramjam.zstd.compress(bytes(size))) for size in (2 * MOST_BYTES, MOST_BYTES - 1))
    is_bomb(4, bytes(cramjam.zstd.compress(bytes(1_000))))
    before = process.memory_info().rss
    assert is_bomb(4, bomb)
    assert not is_bomb(4, large)
    assert process.memory_info().rss - before < MOST_BYTES // 4
