"""CPU of the slow oracle over CPU of the engine for one principal, at growing sets of 500, 1,000 and 5,000.

Both in one process, turn by turn, so that a change of the machine's speed hits both; medians. One thread,
micro-batches of 256 rows, ten classes, uniform queries, of which nearly all join the growing set.
Run: python -m benchmarks.core_ratio [--mode default|compatible]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks._core_streams import batches, uniform
from detector.core.configuration import EngineMode
from detector.core.engine import Engine, EngineConfig
from tests.core.oracle import OraclePrincipal

BATCH = 256
TURNS = 5
SIZES = (500, 1000, 5000)
ORACLE_QUERIES = 20


def measure(mode: EngineMode, dimension: int, size: int) -> tuple[float, float]:
    """Median CPU microseconds a query: (oracle, engine), after ``size`` queries."""
    generator = np.random.default_rng(dimension)
    rows = uniform(generator, size + TURNS * BATCH, dimension)
    parts = batches(rows, np.zeros(len(rows), int), BATCH)
    labels = np.concatenate([part[0].outputs.argmax(1) for part in parts])
    engine, oracle = Engine(EngineConfig(mode=mode)), OraclePrincipal(0.9)
    warm = batches(rows[:size], np.zeros(size, int), BATCH)
    for part in warm:
        engine.observe(part)
    _fill(oracle, rows[:size], labels[:size])
    timed = batches(rows[size:], np.zeros(TURNS * BATCH, int), BATCH)
    slow, fast = [], []
    for turn, part in enumerate(timed):
        at = size + turn * BATCH
        slow.append(_time(partial(_ask, oracle, rows, labels, at)) / ORACLE_QUERIES)
        fast.append(_time(partial(engine.observe, part)) / BATCH)
    return statistics.median(slow), statistics.median(fast)


def _fill(oracle: OraclePrincipal, rows: np.ndarray, labels: np.ndarray) -> None:
    """Bring the oracle to the same growing sets by way of a quick nearest-neighbour search."""
    for label in np.unique(labels).tolist():
        own = rows[labels == label].astype(np.float64)
        square = (own * own).sum(1)
        gaps = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * own @ own.T, 0))
        gaps[np.triu_indices(len(own))] = np.inf
        distances = gaps.min(1)[1:].tolist()
        oracle.growing[label], oracle.joined[label] = list(own), [0.0, *distances]
        oracle.distances[label] = distances
        oracle.thresholds[label] = float(np.mean(oracle.joined[label]) - np.std(oracle.joined[label]))
    oracle.queries = len(rows)


def _ask(oracle: OraclePrincipal, rows: np.ndarray, labels: np.ndarray, at: int) -> None:
    for row in range(at, at + ORACLE_QUERIES):
        oracle.query(rows[row], int(labels[row]))


def _time(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return (time.process_time() - started) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("default", "compatible"), default="compatible")
    mode = parser.parse_args().mode
    for dimension in (64, 784):
        engine = {}
        for size in SIZES:
            slow, engine[size] = measure(mode, dimension, size)
            ratio = slow / engine[size]
            print(f"{mode} d={dimension} n={size}: oracle {slow:,.0f} us, engine {engine[size]:.1f} us: {ratio:,.0f}x")
        exponent = math.log(engine[5000] / engine[1000]) / math.log(5)
        print(f"{mode} d={dimension}: engine's growth exponent from n=1000 to 5000: {exponent:.2f}")


if __name__ == "__main__":
    main()
