"""CPU of all signals over that of `prada` alone, for principals with 1,000 queries behind them.

Both engines in one process, turn by turn, on the same micro-batches of 256 rows by one, four and 32 principals;
medians. One thread, ten classes; inputs lie near a curved surface of eight dimensions, as images do, and the profile's
reference is 1,000 rows of others. Run: python -m benchmarks.signals
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import statistics
import time
from itertools import product

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import calibrate
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.core.signals import SIGNALS

BATCH = 256
PRINCIPALS = (1, 4, 32)
QUERIES = 1_000
TURNS = 33
GOALS = {64: 2.2, 784: 3.0}

Rows = NDArray[np.float32]


def surface(rng: np.random.Generator, count: int, dimension: int) -> Rows:
    """``count`` rows (n, d) in 0..1 near a surface of eight dimensions, the same for every caller."""
    shape = np.random.default_rng(dimension)
    first, second = shape.normal(size=(8, 64)), shape.normal(size=(64, dimension)) / 8
    rows = np.tanh(rng.normal(size=(count, 8)) @ first / 3) @ second
    return np.clip(0.5 + 0.5 * rows + rng.normal(0, 0.01, rows.shape), 0, 1).astype(np.float32)


def outputs(rows: Rows) -> Rows:
    """Probabilities (n, 10) of a linear model."""
    weights = np.random.default_rng(7).normal(size=(rows.shape[1], 10)) * 4 / np.sqrt(rows.shape[1])
    exponent = np.exp((rows - 0.5) @ weights * 8)
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), np.float32)


def queries(rows: Rows, who: NDArray[np.int64]) -> QueryBatch:
    """``rows`` of the principals numbered ``who``."""
    numbers = [f"p{number}" for number in range(int(who.max()) + 1)]
    ids = [str(row) for row in range(len(rows))]
    at = np.zeros(len(rows))
    return QueryBatch("m", "1", "probabilities", ids, at, numbers, who.astype(np.int32), rows, outputs(rows))


def profile(dimension: int) -> Profile:
    """Calibrated on twelve accounts of a hundred rows."""
    rng = np.random.default_rng(2)
    accounts = [queries(surface(rng, 100, dimension), np.zeros(100, np.int64)) for _ in range(12)]
    return calibrate(accounts, 0.01).profile


def measure(dimension: int, principals: int) -> tuple[float, float]:
    """Median CPU microseconds a query: (`prada` alone, all signals)."""
    rng = np.random.default_rng(1)
    alone = Engine(EngineConfig(), {"prada": SIGNALS["prada"]})
    every = Engine(EngineConfig(profiles=(profile(dimension),)))
    times: tuple[list[float], list[float]] = ([], [])
    turns = QUERIES * principals // BATCH + TURNS
    for turn in range(turns):
        who = rng.integers(0, principals, BATCH)
        batch = [queries(surface(rng, BATCH, dimension), who)]
        for engine, own in zip((alone, every), times, strict=True):
            started = time.process_time()
            engine.observe(batch)
            if turn >= turns - TURNS:
                own.append((time.process_time() - started) / BATCH * 1e6)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    print("| principals a micro-batch | features | `prada` alone | all signals | ratio | goal |")
    print("|---|---|---|---|---|---|")
    for (dimension, goal), principals in product(GOALS.items(), PRINCIPALS):
        alone, every = measure(dimension, principals)
        cells = (principals, dimension, f"{alone:.1f} us", f"{every:.1f} us", f"{every / alone:.2f}", goal)
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
