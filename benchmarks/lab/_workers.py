"""Two processes that share the work of a table, and a bar that says how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import product
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PROCESSES = 2

Result = TypeVar("Result")


class Workers:
    """Give out calls to ``pool``; ``progress`` shows them under the name ``table``."""

    def __init__(self, pool: ProcessPoolExecutor, progress: Progress, table: str) -> None:
        self._pool = pool
        self._progress = progress
        self._table = table

    def each(self, work: Callable[..., Result], calls: Sequence[tuple[Any, ...]]) -> list[Result]:
        """What ``work`` returns for each of ``calls``, its arguments; in their order."""
        bar = self._progress.add_task(self._table, total=len(calls))
        futures = [self._pool.submit(work, *call) for call in calls]
        for _ in as_completed(futures):
            self._progress.advance(bar)
        return [future.result() for future in futures]

    def means(
        self, work: Callable[..., Sequence[float]], calls: Sequence[tuple[Any, ...]], seeds: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """For each of ``calls`` the means over ``seeds``, which ``work`` gets as its last argument."""
        figures = self.each(work, [(*call, seed) for call, seed in product(calls, seeds)])
        return [np.mean(part, axis=0) for part in np.split(np.array(figures), len(calls))]


@contextmanager
def workers(table: str) -> Iterator[Workers]:
    """Of one thread each, so that sums come in one order and figures are the same in every run."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), _one_thread) as pool, progress:
        yield Workers(pool, progress, table)


def _one_thread() -> None:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threadpool_limits(1)
