"""The memory that one folder of the package holds, whatever the threads that earlier tests left behind allocate."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def traced(folder: str) -> Iterator[Callable[[], int]]:
    """Gives a function that returns the bytes which code in ``detector/<folder>`` allocated in this block and still
    holds."""
    only = tracemalloc.Filter(True, f"*/detector/{folder}/*")
    tracemalloc.start()
    try:
        yield lambda: sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([only]).traces)
    finally:
        tracemalloc.stop()
