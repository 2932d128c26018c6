"""How long a calibration takes, and in how much memory: of sixty accounts at 784 features, and of a thousand accounts
of a thousand queries at 64 features.

Rows lie near few directions, as natural data do; an account asks about some of sixteen kinds of things, and one in ten
asks near its own earlier queries. Run: python -m benchmarks.calibrating [--quick]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks._detecting import Rows, account
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import calibrate

CASES = ((60, 484, 784), (1_000, 1_000, 64))
"""Accounts, queries of each, and features."""
QUICK = ((20, 200, 784), (50, 200, 64))
CLASSES, KINDS, DIRECTIONS = 10, 16, 24
SEED = 3


def crowd(accounts: int, queries: int, dimension: int) -> Iterator[QueryBatch]:
    """Honest accounts of a softmax regression."""
    rng = np.random.default_rng([SEED, dimension])
    axes = rng.normal(0, 1 / np.sqrt(DIRECTIONS), (DIRECTIONS, dimension))
    centres, weights = rng.normal(0, 1, (KINDS, DIRECTIONS)), rng.normal(0, 1, (dimension, CLASSES))
    for number in range(accounts):
        liking = rng.dirichlet(np.full(KINDS, 2.0))
        along = centres[rng.choice(KINDS, queries, p=liking)] + 0.5 * rng.normal(0, 1, (queries, DIRECTIONS))
        if number % 10 == 0:
            along = np.repeat(along[::10], 10, axis=0)[:queries]
        rows: Rows = (along @ axes + 0.05 * rng.standard_normal((queries, dimension))).astype(np.float32)
        said = rows @ weights / np.sqrt(dimension)
        said = np.exp(said - said.max(axis=1, keepdims=True))
        yield account(f"user-{number}", "", rows, said / said.sum(axis=1, keepdims=True)).queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few accounts, to see that it runs")
    print("| accounts | queries | features | seconds | of computing | ms a query | memory, most, MB | threshold |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    for accounts, queries, dimension in QUICK if parser.parse_args().quick else CASES:
        honest = list(crowd(accounts, queries, dimension))
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(f"{accounts} accounts", total=accounts)
            started, computed = time.perf_counter(), time.process_time()
            made = calibrate(honest, 0.01, lambda done, task=task: progress.advance(task, done))  # type: ignore[misc]
            seconds, computed = time.perf_counter() - started, time.process_time() - computed
        cells = (
            f"{accounts:,}",
            f"{accounts * queries:,}",
            str(dimension),
            f"{seconds:.1f}",
            f"{computed:.1f}",
            f"{1000 * computed / accounts / queries:.2f}",
            f"{_memory():,.0f}",
            f"{made.profile.standards.threshold:.1f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def _memory() -> float:
    """Megabytes, at most so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
